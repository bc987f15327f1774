"""One epoch after the other while nothing else happens: what `taskgraph.plan.member` says then, in few steps.

Nearly all epochs are alike: every rank finishes, nobody asks for the end, and each snapshot is safe, here and with its
backups, soon enough for nobody to be short of a slot. While that is so, all that a rank has to know are a few numbers,
which compiled code keeps (`Steady`). An event that is anything else gets no answer here: the member takes over what has
come about, and answers itself.

Rule: every answer is, order for order, the one that the member would give. Only what it would say once a snapshot is
taken comes with the order to take it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan import grid
from taskgraph.plan.commit import Level
from taskgraph.plan.holdings import NO_END, Held, Known
from taskgraph.plan.messages import Topic
from taskgraph.plan.orders import Committed, Order, Orders, Record, Replicate, RunEpoch, Send, Snapshot
from taskgraph.plan.replication import Sending
from taskgraph.plan.routes import TreePlace

_NOTED, _UP, _COMMIT = range(3)


class Steady(Protocol):
    """What is known of the epoch that is run or finished now (`taskgraph._native.steady`)."""

    @property
    def committed(self) -> Epoch:
        """All epochs below are finished everywhere."""

    @property
    def safe(self) -> Epoch:
        """The boundary that is safe, as far as it was heard."""

    @property
    def delivered(self) -> Epoch:
        """Up to here ``committed`` has been called on all ranks, as far as it was heard."""

    @property
    def waits(self) -> bool:
        """Whether this rank has finished the epoch."""

    @property
    def idle(self) -> bool:
        """Whether none of its tasks composed anything in the last one that it finished."""

    @property
    def message(self) -> bytes:
        """What is to be sent."""

    @property
    def below(self) -> tuple[Epoch, Epoch]:
        """How far (safe, delivered) all below had got when this rank last said so."""

    @property
    def said(self) -> Mapping[Rank, tuple[bool, Epoch, Epoch]]:
        """What children have said of the epoch: by rank, (idle, safe, delivered)."""

    @property
    def heard(self) -> Mapping[Rank, tuple[Epoch, Epoch]]:
        """How far each child had got when it last said something: by rank, (safe, delivered)."""

    @property
    def is_behind(self) -> bool:
        """Whether a backup has not said yet that it has the newest snapshot."""

    @property
    def acked(self) -> Sequence[tuple[TaskId, Rank, Epoch, Epoch]]:
        """What backups have said they have: (task, rank, boundary when this rank finished its epoch, and now)."""

    def stop(self) -> None:
        """Have no answer from now on."""

    def finished(self, idle: bool) -> int:
        """Take that this rank has finished the epoch, its snapshot included."""

    def received(self, source: Rank, topic: int, data: bytes) -> int:
        """Take a control message."""


Backups = tuple[tuple[TaskId, Rank, Epoch], ...]
"""Who gets copies, of which task, and the newest boundary that is there."""

MakeSteady = Callable[
    [Rank | None, tuple[Rank, ...], bool, Epoch | None, int, Epoch, Epoch, Epoch, Epoch, Backups], Steady
]
"""Makes one: who is above and below, whether tasks are run here, epochs, every, committed, safe, delivered, saved, and
who gets copies."""

Copied = Callable[[Epoch, Generation, int], Sequence[Sending]]
"""Says who gets the snapshots of a boundary, so many epochs after the last, once: the next are changes of these."""


class Answers:
    """The orders of a steady rank, from an epoch that it is about to run.

    Parameters
    ----------
    make
        Makes a `Steady`.
    place
        In the tree.
    tasks
        That this rank runs.
    epochs, every
        As of `Member`.
    boundary
        That of the epoch.
    known
        ``committed`` has been called here up to its safe boundary; of each task the snapshots from there on are kept.
    saved, backups
        The newest of these, and who gets copies.
    copied
        Is asked who gets those that follow.
    """

    def __init__(
        self,
        make: MakeSteady,
        place: TreePlace,
        generation: Generation,
        tasks: tuple[TaskId, ...],
        epochs: Epoch | None,
        every: int,
        boundary: Epoch,
        known: Level,
        saved: Epoch,
        backups: Backups,
        copied: Copied,
    ) -> None:
        self.steady = make(place.parent, place.children, bool(tasks), epochs, every, boundary, *known, saved, backups)
        self._copies = bool(backups)
        self._copied = copied
        self._parent, self._children = place.parent, place.children
        self._generation = generation
        self._tasks = tasks
        self._every = every

    def finished(self, idle: bool, asked: int) -> Orders | None:
        """Answer as `Member.finished`, and `Member.snapshot_taken` where a snapshot is due. None: it has to."""
        steady = self.steady
        if asked != NO_END:
            return None
        boundary, called, known = steady.committed + 1, steady.safe, self._known
        orders = self._said(steady.finished(idle), called)
        due = grid.due(boundary, self._every, self._tasks)
        if orders is None or not due:
            return orders
        slots = tuple([Held(task, boundary, self._generation) for task in due])
        snapshot = Snapshot(boundary, slots, (called,) * len(due))
        return (snapshot, *self._to_copy(boundary, known), *orders)

    def copies(self, boundary: Epoch) -> Orders:
        """Return the orders to copy the snapshots of a boundary, where somebody else has given those to take them."""
        return self._to_copy(boundary, self._known)

    @property
    def _known(self) -> Known:
        steady = self.steady
        return Known(self._generation, steady.safe, min(steady.delivered, steady.safe))

    def _to_copy(self, boundary: Epoch, known: Known) -> Orders:
        if not self._copies:
            return ()
        sendings = self._copied(boundary, self._generation, self._every)
        return tuple([Replicate(to, slot, base, known) for to, slot, base in sendings])

    def receive(self, source: Rank, topic: Topic, data: bytes) -> Orders | None:
        """Answer as `Member.receive`. None: it has to."""
        called = self.steady.safe
        return self._said(self.steady.received(source, topic, data), called)

    def _said(self, step: int, called: Epoch) -> Orders | None:
        """Return what follows from an event; ``committed`` had been called up to `called`."""
        steady = self.steady
        if step == _NOTED:
            return ()
        if step == _UP:
            assert self._parent is not None
            return (Send(self._parent, Topic.CONTRIBUTION, steady.message),)
        if step != _COMMIT:
            return None
        orders: list[Order] = [Send(child, Topic.VERDICT, steady.message) for child in self._children]
        orders.append(Record(self._known))
        if steady.safe > called:
            orders += [Committed(task, called, steady.safe) for task in self._tasks]
        orders.append(RunEpoch(steady.committed))
        return tuple(orders)
