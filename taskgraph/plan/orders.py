"""What the main thread of a rank is to do, as its machine (`taskgraph.plan.member`) says.

Orders come in tuples and are carried out one after the other. Before each, the shell looks at the host's floor
(`taskgraph.plan.fence.may_act`): if the generation is over, this order and the rest are dropped; not so once the member
has left (`Phase.LEFT`), since what it then says is true in any generation. What needs an answer
(`Restore`, `Snapshot`, `RunEpoch`, `Exit`, `Conclude`) is the last of its tuple. Nothing of the protocol happens
between two orders of one tuple; a message that comes in meanwhile waits.

Tuples, not dataclasses: every epoch makes some on every rank.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from taskgraph.ids import Epoch, Rank, TaskId
from taskgraph.plan.ending import Ending
from taskgraph.plan.holdings import Held, Known
from taskgraph.plan.lineage import History
from taskgraph.plan.manifest import Name
from taskgraph.plan.messages import Topic


class Send(NamedTuple):
    """Send a control message, stamped with the member's generation."""

    to: Rank
    topic: Topic
    data: bytes = b""


class Purge(NamedTuple):
    """Drop the host's snapshots that `lineage.is_valid` refuses under this history."""

    history: History


class Restore(NamedTuple):
    """Become what the generation says, and answer with `Member.restored`.

    Attributes
    ----------
    boundary
        The state is that of this boundary.
    slots
        Fill the protected state of these tasks from the host's slots.
    rebuild
        Make these by `init`, afresh.
    checkpoint
        And fill them from this one; None: they are as `init` leaves them.
    backups
        Be a backup of these: a replica that this rank has not had is made by `init`.
    """

    boundary: Epoch
    slots: tuple[Held, ...]
    rebuild: tuple[TaskId, ...]
    backups: tuple[TaskId, ...]
    checkpoint: Name | None = None


class Snapshot(NamedTuple):
    """Copy the protected state of tasks into slots, and answer with `Member.snapshot_taken` once all are whole.

    Attributes
    ----------
    slots
        The stamps.
    delivered
        By task, in the order of `slots`: how far ``committed`` was called; goes into the slot.
    """

    boundary: Epoch
    slots: tuple[Held, ...]
    delivered: tuple[Epoch, ...]


class Replicate(NamedTuple):
    """Send a snapshot to a backup, in order with everything else sent there.

    Attributes
    ----------
    base
        See `replication.Sending`.
    known
        The newest commit that this rank received; it travels with the snapshot.
    """

    to: Rank
    slot: Held
    base: Held | None
    known: Known


class Store(NamedTuple):
    """Write a snapshot that arrived into a slot, and call `Member.stored` once it is whole.

    Attributes
    ----------
    base
        What arrived is a change of this one.
    """

    source: Rank
    slot: Held
    base: Held | None


class Record(NamedTuple):
    """Write down on the host what a commit said, and free all snapshots below its safe boundary."""

    known: Known


class Committed(NamedTuple):
    """Call ``committed`` of a task for the epochs from `start` up to `stop`, which is not one of them."""

    task: TaskId
    start: Epoch
    stop: Epoch


class RunEpoch(NamedTuple):
    """Compose and run an epoch, and answer with `Member.finished`."""

    epoch: Epoch


class Exit(NamedTuple):
    """Call ``exit`` of tasks, and answer with `Member.exited`."""

    tasks: tuple[TaskId, ...]


class MarkOver(NamedTuple):
    """Write down on the host that the job is over with this status: a tombstone is then answered with it."""

    status: int


class Conclude(NamedTuple):
    """At the root: have the end written to etcd if it must be (`succession.must_write`); then `Member.concluded`."""

    status: int


class Leave(NamedTuple):
    """Leave the job."""

    ending: Ending


class Overtaken(NamedTuple):
    """A snapshot to restore from is gone. If the floor is above the generation, wait for the next; else a defect."""

    slot: Held


Order: TypeAlias = (
    Send
    | Purge
    | Restore
    | Snapshot
    | Replicate
    | Store
    | Record
    | Committed
    | RunEpoch
    | Exit
    | MarkOver
    | Conclude
    | Leave
    | Overtaken
)
Orders: TypeAlias = tuple[Order, ...]
