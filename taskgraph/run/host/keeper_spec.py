"""What the keeper of a host is to do, as a value that goes through a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from taskgraph.backends.processes import Process
from taskgraph.config import Placement
from taskgraph.ids import Host, Rank
from taskgraph.run.host.supervised import Supervised

EtcdPart = Literal["none", "serve", "stand by", "elsewhere"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperSpec:
    """The task of one keeper.

    Attributes
    ----------
    job, run
        Name of the job, and random identity of its run.
    host
        The host it keeps.
    ranks
        The ranks of that host, in the order of the abort words.
    backups, placement
        What the job was configured with.
    lease_s
        Seconds of silence after which the host is dead.
    abort_grace_s
        Seconds from the failure of the job to the kill of the ranks that have not noticed.
    etcd_lost_after_s
        Seconds after which an etcd that does not answer is given up, see `taskgraph.plan.outage`.
    launcher
        The processes that launched the ranks, on this machine. When one of them is gone the job is.
    etcd
        ``"serve"``: start the etcd that the job brings, and say in the host's directory how it is reached. ``"stand
        by"``: go on with it if its keeper is lost; for other hosts on the same machine. ``"elsewhere"``: another
        machine has it. ``"none"``: the user's is used.
    several_machines
        Whether ranks on other machines have to reach it.
    supervised
        The option of that name, see `taskgraph.run.host.supervised`.
    supervisor
        The process that launches the job again when its launcher has ended early, where it is on this machine.
    pauses
        Whether the job can end before it is finished, since it writes checkpoints.
    """

    job: str
    run: str
    host: Host
    ranks: tuple[Rank, ...]
    backups: int
    placement: Placement
    lease_s: float
    abort_grace_s: float
    etcd_lost_after_s: float = 60.0
    launcher: tuple[Process, ...] = ()
    etcd: EtcdPart = "none"
    several_machines: bool = False
    supervised: str | None = None
    supervisor: Process | None = None
    pauses: bool = False

    @property
    def attempt(self) -> Supervised | None:
        """Which attempt of a supervised run this is; None: nobody launches this job again."""
        return None if self.supervised is None else Supervised.decode(self.supervised)

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> KeeperSpec:
        """Read what `encode` wrote."""
        fields = json.loads(text)
        launcher = tuple(Process(*process) for process in fields["launcher"])
        supervisor = fields["supervisor"] and Process(*fields["supervisor"])
        return cls(**{**fields, "ranks": tuple(fields["ranks"]), "launcher": launcher, "supervisor": supervisor})
