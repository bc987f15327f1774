"""From N processes to N ranks that know each other: who is where, what the job is, and that all agree on it."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from taskgraph.backends.commits import Commits
from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.launcher import detect, launchers, mpi_files
from taskgraph.backends.processes import Process
from taskgraph.backends.slots import SlotDir
from taskgraph.backends.words import AbortWords
from taskgraph.config import Config
from taskgraph.errors import CoordinatorError, TaskgraphError, UsageError
from taskgraph.ids import Host, Rank
from taskgraph.plan import records
from taskgraph.plan.decision import Decision
from taskgraph.plan.layout import Layout, assign
from taskgraph.plan.manifest import Name
from taskgraph.plan.revival import Inherited
from taskgraph.run.guard import start_keeper
from taskgraph.run.hostdir import HostDir, machine
from taskgraph.run.inheritance import inherit, pass_on
from taskgraph.run.records import write_atomically
from taskgraph.run.roster import add_rank
from taskgraph.run.spec import EtcdPart, KeeperSpec
from taskgraph.run.supervised import Supervised

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

log = logging.getLogger(__name__)

T = TypeVar("T")

ROOT: Rank = 0
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
    def lineage(self) -> str:
        """Identity of all launches of this run together."""
        return self.run if self.attempt is None else self.attempt.lineage

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


def lay_out(config: Config, site: Site) -> Layout:
    """Assign the tasks; say so, once, where there are fewer copies than were asked for."""
    layout = assign(config.num_tasks, site.hosts, config.backups, config.placement)
    if site.rank == ROOT:
        warn_of_few_copies(config, layout)
    return layout


def warn_of_few_copies(config: Config, layout: Layout) -> None:
    """Warn where there are not enough ranks for the backups that were asked for."""
    fewest = layout.fewest_backups()
    if fewest < config.backups:
        log.warning(
            "backups=%d were asked for, but there are ranks for %d of some task: %d %s of it",
            config.backups,
            fewest,
            fewest + 1,
            "copies" if fewest else "copy",
        )


def prepare_host(communicator: Intracomm, config: Config, site: Site) -> tuple[HostDir, Mapping[Host, Inherited]]:
    """Make the directory of each host and start its keeper; add this rank to it.

    Returns
    -------
    HostDir, mapping of Host to Inherited
        The directory of this host, and what each host has of the launches before.

    Raises
    ------
    StartFailed
    """
    first = site.local[0]

    def make() -> tuple[str, Inherited | None]:
        if site.rank != first:
            return "", None
        directory = HostDir.create(config.name, site.run, site.host_index)
        spec = _spec(config, site)
        write_atomically(directory.spec, spec.encode())
        AbortWords.create(directory.words, len(site.local)).close()
        found = None if site.attempt is None else inherit(directory, site.host, site.attempt)
        if not directory.slots.exists():
            SlotDir.create(directory.slots, site.lineage)
        Commits.create(directory.commits, len(site.local))
        if found is not None:
            pass_on(directory, found.known)
        start_keeper(directory, spec)
        return os.fspath(directory.path), found

    made = together(communicator, make)
    everywhere = communicator.allgather(made)
    path = everywhere[first][0]

    def join() -> HostDir:
        directory = HostDir.open(path)
        add_rank(directory, site.index, Process.current(), mpi_files(os.environ))
        return directory

    inherited = {host: found for host, (_, found) in zip(site.hosts, everywhere, strict=True) if found is not None}
    return together(communicator, join), inherited


def _spec(config: Config, site: Site) -> KeeperSpec:
    return KeeperSpec(
        job=config.name,
        run=site.run,
        host=site.host,
        ranks=site.local,
        backups=config.backups,
        placement=config.placement,
        lease_s=config.lease_s,
        abort_grace_s=config.abort_grace_s,
        etcd_lost_after_s=config.etcd_lost_after_s,
        launcher=launchers(Process.current()),
        supervised=config.supervised,
        pauses=config.checkpoint is not None,
        supervisor=None if site.attempt is None else site.attempt.supervisor(),
        etcd=_etcd_part(config, site),
        several_machines=site.machine_count > 1,
    )


def _etcd_part(config: Config, site: Site) -> EtcdPart:
    if config.etcd:
        return "none"
    if site.machines[site.rank] != site.machines[ROOT]:
        return "elsewhere"
    return "serve" if site.host == site.hosts[ROOT] else "stand by"


def begin(
    communicator: Intracomm,
    config: Config,
    site: Site,
    coordinator: Coordinator,
    decision: Decision,
    newest: Name | None,
) -> Decision:
    """Write the first decision once every host holds its lease; return it.

    Parameters
    ----------
    newest
        The newest checkpoint that there is, for decisions to come.

    Raises
    ------
    StartFailed
    """

    def write() -> None:
        if site.rank == ROOT:
            _wait_for_hosts(coordinator, set(site.hosts), config.etcd_timeout_s)
            first = records.begin(decision, newest)
            coordinator.write(first.entries, absent=first.absent)

    together(communicator, write)
    if site.attempt is not None:
        site.attempt.resumed(decision.boundary, decision.why)
    return decision


def _wait_for_hosts(coordinator: Coordinator, hosts: set[Host], timeout_s: float) -> None:
    """Wait until the keepers hold their leases: without one a host counts as lost."""
    deadline = time.monotonic() + timeout_s
    while missing := hosts - {key.removeprefix("hosts/") for key in coordinator.read("hosts/")}:
        if time.monotonic() > deadline:
            raise CoordinatorError(f"the keepers of {', '.join(sorted(missing))} were not up within {timeout_s:.1f} s")
        time.sleep(0.005)
