"""One epoch after the other while nothing else happens: what `taskgraph.plan.member` says then, in few steps.

Nearly all epochs are alike: every rank finishes, nobody asks for the end, and each snapshot is safe by the commit that
follows it. While that is so, all that a rank has to know are a few numbers. An event that is anything else gets no
answer here: the member takes over what has come about, and answers itself.

Rule: every answer is, order for order, the one that the member would give.
"""

from __future__ import annotations

from collections.abc import Mapping

from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan import grid
from taskgraph.plan.commit import UNBOUNDED, Contribution, Level, Verdict
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
        RUNNING, SAVING or WAITING.
    safe, delivered
        How far all have got, as it was heard.
    idle
        Whether none of its tasks composed anything, where this rank has finished.
    said
        What its children have said of the epoch.
    subtree, levels
        What it said last for all ranks below; how far they had got, each child for its own.
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
        self.said: dict[Rank, Contribution] = {}
        self.subtree: Contribution | None = None
        self.levels: Mapping[Rank, Contribution] = {}
        self._saved = known.safe

    # ---- events; None: the member has to answer ----

    def finished(self, idle: bool, asked: int) -> Orders | None:
        """Answer as `Member.finished`."""
        boundary = self.committed + 1
        if asked != NO_END or boundary == self._epochs:
            return None
        due = grid.due(boundary, self._every, self._tasks)
        if not due:
            return self._contribute(idle)
        self.boundary, self.phase, self.idle = boundary, Phase.SAVING, idle
        slots = tuple([Held(task, boundary, self._generation, NO_END) for task in due])
        return (Snapshot(boundary, slots, (self.safe,) * len(due), False),)

    def snapshot_taken(self) -> Orders | None:
        """Answer as `Member.snapshot_taken`."""
        before, self._saved = self._saved, self.boundary
        orders = self._contribute(self.idle)
        if orders is None:
            self._saved = before
        return orders

    def receive(self, source: Rank, topic: Topic, data: bytes) -> Orders | None:
        """Answer as `Member.receive`."""
        if topic is Topic.VERDICT:
            epoch, last, _, safe, delivered = Verdict.decode(data)
            if last or epoch != self.committed or self.phase is not Phase.WAITING or not self._keeps_one(safe):
                return None
            return self._commit(data, safe, delivered)
        if topic is not Topic.CONTRIBUTION:
            return None
        said = Contribution.decode(data)
        if said.last or said.epoch != self.committed or source not in self._children:
            return None
        self.said[source] = said
        if self.phase is not Phase.WAITING or len(self.said) < len(self._children):
            return ()
        orders = self._complete(self.idle)
        if orders is None:
            del self.said[source]
        return orders

    # ---- commits ----

    def _contribute(self, idle: bool) -> Orders | None:
        """Finish the epoch: say so, unless somebody below has not."""
        if len(self.said) == len(self._children):
            return self._complete(idle)
        self._wait(idle)
        return ()

    def _complete(self, idle: bool) -> Orders | None:
        """Say what all below have finished, or, at the root, that everybody has."""
        level = Level(self._saved, self.safe) if self._tasks else Level(UNBOUNDED, UNBOUNDED)
        subtree = Contribution(self.committed, idle, False, 0, *level).merged(self.said.values())
        if self._parent is not None:
            self.subtree = subtree
            self._wait(idle)
            return (Send(self._parent, Topic.CONTRIBUTION, subtree.encode()),)
        if subtree.idle or not self._keeps_one(subtree.safe):
            return None
        said = Verdict(self.committed, False, 0, subtree.safe, subtree.delivered)
        return self._commit(said.encode(), said.safe, said.delivered)

    def _keeps_one(self, safe: Epoch) -> bool:
        """Tell whether a commit of this safe boundary leaves one snapshot of each task, everywhere: the newest."""
        return safe == self._saved if self._tasks else safe > self.committed + 1 - self._every

    def _wait(self, idle: bool) -> None:
        self.boundary, self.phase, self.idle = self.committed + 1, Phase.WAITING, idle

    def _commit(self, verdict: bytes, safe: Epoch, delivered: Epoch) -> Orders:
        """Go on to the next epoch."""
        self.committed += 1
        self.boundary, self.phase = self.committed, Phase.RUNNING
        self.levels, self.said = self.said, {}
        called, self.safe = self.safe, max(self.safe, safe)
        self.delivered = max(self.delivered, delivered)
        orders: list[Order] = [Send(child, Topic.VERDICT, verdict) for child in self._children]
        orders.append(Record(Known(self._generation, self.safe, min(self.delivered, self.safe))))
        if self.safe > called:
            orders += [Committed(task, called, self.safe) for task in self._tasks]
        orders.append(RunEpoch(self.boundary))
        return tuple(orders)
