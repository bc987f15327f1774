"""From N processes to N ranks that know each other: who is where, what the job is, and that all agree on it."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from taskgraph.backends.launcher import detect
from taskgraph.config import Config
from taskgraph.errors import TaskgraphError, UsageError
from taskgraph.ids import Host, Rank
from taskgraph.run.host.directory import machine
from taskgraph.run.host.supervised import Supervised

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

log = logging.getLogger(__name__)

T = TypeVar("T")

ROOT: Rank = 0
"""The rank that does what one rank has to do at the start."""
HERE: Host = "localhost"
"""The host of a job in one process."""
_NAP_S = 0.001
_SECRET = ("etcd_password",)


class StartFailed(TaskgraphError):
    """A step of the start failed on some rank; raised on all of them.

    Attributes
    ----------
    rank
        The first on which it failed.
    """

    def __init__(self, message: str, rank: Rank) -> None:
        super().__init__(message)
        self.rank = rank


@dataclass(frozen=True, slots=True)
class Site:
    """Where this rank is, among all.

    Attributes
    ----------
    run
        Random identity of the run, the same on every rank.
    attempt
        Where a supervisor launches the job: which attempt this is.
    hosts
        The host of each rank, by rank.
    machines
        The machine of each rank, by rank: several hosts may share one (`Config.ranks_per_host`).
    """

    rank: Rank
    run: str
    hosts: tuple[Host, ...]
    machines: tuple[str, ...]
    attempt: Supervised | None = None

    @property
    def series(self) -> str:
        """Identity of all launches of this run together."""
        return self.run if self.attempt is None else self.attempt.series

    @property
    def host(self) -> Host:
        """The host of this rank."""
        return self.hosts[self.rank]

    @property
    def host_index(self) -> int:
        """The place of this host among all, in the order of their first ranks."""
        return list(dict.fromkeys(self.hosts)).index(self.host)

    @property
    def local(self) -> tuple[Rank, ...]:
        """The ranks of this host."""
        return tuple(rank for rank, host in enumerate(self.hosts) if host == self.host)

    @property
    def index(self) -> int:
        """Position of this rank among those of its host."""
        return self.local.index(self.rank)

    @property
    def machine_count(self) -> int:
        """Number of machines."""
        return len(set(self.machines))

    @property
    def ranks_here(self) -> int:
        """Number of ranks on this machine."""
        return self.machines.count(self.machines[self.rank])


def together(communicator: Intracomm, step: Callable[[], T]) -> T:
    """Do one step of the start on every rank; where it fails on any, raise on all.

    Raises
    ------
    StartFailed
    """
    failed: str | None = None
    try:
        result = step()
    except TaskgraphError as error:
        failed = str(error)
    except Exception as error:  # others would wait here for this rank
        log.exception("a step of the start failed")
        failed = f"{type(error).__name__}: {error}"
    _doze(communicator)
    for rank, message in enumerate(communicator.allgather(failed)):
        if message is not None:
            raise StartFailed(message, rank)
    return result


def _doze(communicator: Intracomm) -> None:
    """Wait until every rank has come this far, asleep: MPI's own wait keeps the cores that keeper and etcd start on."""
    arrived = communicator.Ibarrier()
    while not arrived.Test():
        time.sleep(_NAP_S)


def meet(communicator: Intracomm, config: Config) -> Site:
    """Find out where every rank is, and that all were given the same options.

    Raises
    ------
    StartFailed
        They were not: the message names the option and the values. Or MPI knows fewer ranks than the launcher started.
    """
    _require_everyone(communicator)
    rank = communicator.rank
    mine = (socket.gethostname(), machine(), _options(config))
    all_of_them = communicator.allgather(mine)
    fresh: str = communicator.bcast(secrets.token_hex(8) if rank == ROOT else None, root=ROOT)

    attempt = None if config.supervised is None else Supervised.decode(config.supervised)
    beside_supervisor = communicator.allgather(attempt is not None and attempt.supervisor() is not None)

    def compare() -> Site:
        for other, (_, _, options) in enumerate(all_of_them):
            _compare(all_of_them[ROOT][2], options, other)
        machines = tuple(where for _, where, _ in all_of_them)
        if attempt is not None and not any(beside_supervisor):
            raise UsageError(
                "no rank is on the machine of 'taskgraph run', which would not hear how the job ends: include that "
                "machine in the hosts, or start 'taskgraph run' on one of them"
            )
        run = fresh if attempt is None else attempt.run
        return Site(rank, run, _hosts(config, [name for name, _, _ in all_of_them]), machines, attempt)

    return together(communicator, compare)


def _require_everyone(communicator: Intracomm) -> None:
    """Refuse to run where each of N processes takes itself for the only rank: so it is under another MPI's launcher."""
    launched = detect(os.environ)
    if launched is not None and launched.size not in (None, communicator.size):
        raise StartFailed(
            f"{launched.launcher} started {launched.size} ranks, but MPI knows of {communicator.size}: use the mpirun "
            "of the MPI that mpi4py loads",
            communicator.rank,
        )


def _options(config: Config) -> dict[str, str]:
    """Return every option as text; of a secret one only a digest."""
    values = {field.name: repr(getattr(config, field.name)) for field in fields(config)}
    for option in _SECRET:
        values[option] = hashlib.sha256(values[option].encode()).hexdigest()[:8]
    return values


def _compare(root: dict[str, str], other: dict[str, str], rank: Rank) -> None:
    for option, value in root.items():
        if other[option] != value:
            raise UsageError(
                f"{option}={value} on rank {ROOT}, but {option}={other[option]} on rank {rank}: "
                "every rank has to run the same program with the same options"
            )


def _hosts(config: Config, names: list[str]) -> tuple[Host, ...]:
    if config.ranks_per_host is None:
        return tuple(names)
    return tuple(f"{name}.{rank // config.ranks_per_host}" for rank, name in enumerate(names))
