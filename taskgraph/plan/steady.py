"""One epoch after the other while nothing else happens: what `taskgraph.plan.member` says then, in few steps.

Nearly all epochs are alike: every rank finishes, nobody asks for the end, and each snapshot is safe by the commit that
follows it. While that is so, all that a rank has to know are a few numbers. An event that is anything else gets no
answer here: the member takes over what has come about, and answers itself.

Rule: every answer is, order for order, the one that the member would give. Only what it would say once a snapshot is
taken comes with the order to take it.
"""

from __future__ import annotations

from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan import grid
from taskgraph.plan.commit import (
    UNBOUNDED,
    Fields,
    Level,
    pack_contribution,
    pack_verdict,
    unpack_contribution,
    unpack_verdict,
)
from taskgraph.plan.holdings import NO_END, Held, Known
from taskgraph.plan.messages import Topic
from taskgraph.plan.orders import Committed, Order, Orders, Record, RunEpoch, Send, Snapshot
from taskgraph.plan.phase import Phase
from taskgraph.plan.routes import TreePlace


class Steady:
    """The epochs of one rank, from one that it is about to run.

    Parameters
    ----------
    place
        In the tree.
    tasks
        That this rank runs. Copies of their snapshots go nowhere.
    epochs, every
        As of `Member`.
    boundary
        That of the epoch.
    known
        Up to its safe boundary ``committed`` has been called here, and of each task that snapshot is kept, no other.

    Attributes
    ----------
    boundary
        The newest that this rank has reached.
    committed
        The newest that all have: that of the epoch which is run or finished now.
    phase
        RUNNING or WAITING.
    safe, delivered
        How far all have got, as it was heard.
    idle
        Whether none of its tasks composed anything in the last epoch that it finished.
    said
        What its children have said of this epoch: the fields of a `Contribution`.
    before
        What they said of the one before.
    subtree
        How far all below had got when it last said so.
    """

    def __init__(
        self,
        place: TreePlace,
        generation: Generation,
        tasks: tuple[TaskId, ...],
        epochs: Epoch | None,
        every: int,
        boundary: Epoch,
        known: Level,
    ) -> None:
        self._parent, self._children = place.parent, place.children
        self._generation = generation
        self._tasks = tasks
        self._epochs = epochs
        self._every = every
        self.boundary = self.committed = boundary
        self.safe, self.delivered = known
        self.phase = Phase.RUNNING
        self.idle = False
        self.said: dict[Rank, Fields] = {}
        self.before: dict[Rank, Fields] = {}
        self.subtree: Level | None = None
        self._saved = known.safe

    # ---- events; None: the member has to answer ----

    def finished(self, idle: bool, asked: int) -> Orders | None:
        """Answer as `Member.finished`, and `Member.snapshot_taken` where a snapshot is due."""
        boundary = self.committed + 1
        if asked != NO_END or boundary == self._epochs:
            return None
        due = grid.due(boundary, self._every, self._tasks)
        before, called = self._saved, self.safe
        if due:
            self._saved = boundary
        self.idle = idle
        orders = self._complete() if len(self.said) == len(self._children) else ()
        if orders is None:
            self._saved = before
            return None
        if self.committed < boundary:
            self.boundary, self.phase = boundary, Phase.WAITING
        if not due:
            return orders
        slots = tuple([Held(task, boundary, self._generation) for task in due])
        return (Snapshot(boundary, slots, (called,) * len(due), False), *orders)

    def receive(self, source: Rank, topic: Topic, data: bytes) -> Orders | None:
        """Answer as `Member.receive`."""
        if topic is Topic.VERDICT:
            epoch, last, _, safe, delivered = unpack_verdict(data)
            if last or epoch != self.committed or self.phase is not Phase.WAITING or not self._keeps_one(safe):
                return None
            return self._commit(data, safe, delivered)
        if topic is not Topic.CONTRIBUTION:
            return None
        said = unpack_contribution(data)
        if said[0] != self.committed or said[2] or source not in self._children:
            return None
        self.said[source] = said
        if self.phase is not Phase.WAITING or len(self.said) < len(self._children):
            return ()
        orders = self._complete()
        if orders is None:
            del self.said[source]
        return orders

    # ---- commits ----

    def _complete(self) -> Orders | None:
        """Say what all below have finished, or, at the root, that everybody has."""
        idle = self.idle
        safe, delivered = (self._saved, self.safe) if self._tasks else (UNBOUNDED, UNBOUNDED)
        for said in self.said.values():
            idle = idle and said[1]
            safe = min(safe, said[4])
            delivered = min(delivered, said[5])
        if self._parent is not None:
            self.subtree = Level(safe, delivered)
            data = pack_contribution(self.committed, idle, False, 0, safe, delivered)
            return (Send(self._parent, Topic.CONTRIBUTION, data),)
        if idle or not self._keeps_one(safe):
            return None
        return self._commit(pack_verdict(self.committed, False, 0, safe, delivered), safe, delivered)

    def _keeps_one(self, safe: Epoch) -> bool:
        """Tell whether a commit of this safe boundary leaves one snapshot of each task, everywhere: the newest."""
        return safe == self._saved if self._tasks else safe > self.committed + 1 - self._every

    def _commit(self, verdict: bytes, safe: Epoch, delivered: Epoch) -> Orders:
        """Go on to the next epoch."""
        boundary = self.boundary = self.committed = self.committed + 1
        self.phase = Phase.RUNNING
        self.before, self.said = self.said, {}
        called, self.safe = self.safe, max(self.safe, safe)
        self.delivered = max(self.delivered, delivered)
        known = Known(self._generation, self.safe, min(self.delivered, self.safe))
        orders: list[Order] = [Send(child, Topic.VERDICT, verdict) for child in self._children]
        orders.append(Record(known))
        if self.safe > called:
            orders += [Committed(task, called, self.safe) for task in self._tasks]
        orders.append(RunEpoch(boundary))
        return tuple(orders)
