"""The snapshots that a rank keeps of the tasks it runs: on its own host, and with the backups, in one generation."""

from __future__ import annotations

from collections.abc import Iterable

from taskgraph.ids import Epoch, Generation, Host, Rank, TaskId
from taskgraph.plan import adoption, grid
from taskgraph.plan.decision import Decision
from taskgraph.plan.holdings import Held
from taskgraph.plan.lineage import History
from taskgraph.plan.orders import Restore
from taskgraph.plan.replication import Replication, Sending


class Snapshots:
    """What is kept, what has to be taken, and who has got a copy.

    Attributes
    ----------
    restore
        What the rank becomes when it enters the generation.
    """

    def __init__(self, decision: Decision, rank: Rank, host: Host, held: Iterable[Held], history: History) -> None:
        self.tasks = decision.layout.primaries_of(rank)
        self._replication = Replication(decision, host, self.tasks)
        self._boundary = decision.boundary
        valid = adoption.valid_of(self.tasks, held, history)
        self.restore = adoption.to_restore(decision, rank, valid)
        self._kept: dict[Epoch, dict[TaskId, Held]] = {}
        for slot in valid.values():
            self._keep(slot)
        self._pending = self.restore.rebuild if isinstance(self.restore, Restore) else ()

    @property
    def safe(self) -> Epoch:
        """The newest boundary that all holders of all tasks have."""
        return self._replication.safe

    @property
    def are_pending(self) -> bool:
        """Whether a snapshot is due and not yet taken."""
        return bool(self._pending)

    @property
    def can_begin(self) -> bool:
        """Whether one is due, and a slot is free for it."""
        return bool(self._pending) and grid.has_room(len(self._kept))

    @property
    def saved(self) -> Epoch:
        """The newest boundary whose snapshots are kept."""
        return max(self._kept)

    @property
    def is_behind(self) -> bool:
        """Whether a backup has not said yet that it has the newest."""
        return any(acked < self.saved for _, _, acked in self.backups)

    @property
    def backups(self) -> tuple[tuple[TaskId, Rank, Epoch], ...]:
        """Who gets copies, and the newest boundary that they have."""
        return self._replication.backups

    def are_settled(self, safe: Epoch, every: int) -> bool:
        """Whether exactly the snapshots from the safe boundary on are kept, and that one by every backup."""
        if not self.tasks:
            return True
        return self._kept.keys() == grid.kept(safe, self._boundary, every) and self._replication.have(safe)

    def copied(self, boundary: Epoch, generation: Generation, every: int) -> list[Sending]:
        """Return who gets the snapshots of a boundary that has just been saved, while the rest is known to others."""
        before = boundary - every
        if before > self._replication.newest:  # it was copied too, and nobody was asked
            self._replication.saved([Held(task, before, generation) for task in self.tasks], before)
        slots = [Held(task, boundary, generation) for task in self.tasks]
        return self._replication.saved(slots, boundary)

    def passed(self, boundary: Epoch, safe: Epoch, generation: Generation, every: int) -> None:
        """Note that the rank has advanced to `boundary` and keeps the snapshots from the safe one on."""
        self._boundary = boundary
        if self.tasks:
            for at in grid.kept(safe, boundary, every) - self._kept.keys():
                self._kept[at] = {task: Held(task, at, generation) for task in self.tasks}
            self.free_below(safe)
            self._replication.saved(self._kept[self.saved].values(), self.saved)  # all were copied, in their order

    def reached(self, boundary: Epoch, every: int) -> None:
        """Note that the rank has reached a boundary: a snapshot may be due."""
        self._boundary = boundary
        self._pending = grid.due(boundary, every, self.tasks)

    def must_have(self, boundary: Epoch) -> None:
        """Make the snapshot of `boundary` due, unless it has been taken: there the job ends, on the grid or not."""
        if any(self.find(task, boundary) is None for task in self.tasks):
            self._pending = self.tasks

    def begin(self, generation: Generation, end: int) -> tuple[Held, ...]:
        """Return the stamps of those that are due."""
        slots = tuple([Held(task, self._boundary, generation, end) for task in self._pending])
        for slot in slots:
            self._keep(slot)
        return slots

    def _keep(self, slot: Held) -> None:
        self._kept.setdefault(slot.boundary, {})[slot.task] = slot

    def taken(self) -> list[Sending]:
        """Note that those that were due are whole; return who gets them."""
        kept = self._kept[self._boundary]
        slots = [kept[task] for task in self._pending]
        self._pending = ()
        return self._replication.saved(slots, self._boundary)

    def restored(self) -> list[Sending]:
        """Note that the state is restored; return what holders lack of what is there."""
        sendings = self._replication.refill(slot for kept in self._kept.values() for slot in kept.values())
        if not self._pending:
            self._replication.saved((), self._boundary)
        return sendings

    def acked(self, task: TaskId, by: Host, boundary: Epoch) -> None:
        """Take an acknowledgement of a backup."""
        self._replication.acked(task, by, boundary)

    def free_below(self, safe: Epoch) -> None:
        """Forget what the host frees: all below a boundary that is safe."""
        for boundary in [boundary for boundary in self._kept if boundary < safe]:
            del self._kept[boundary]

    def find(self, task: TaskId, boundary: Epoch) -> Held | None:
        """Return the stamp of one that is still kept."""
        return self._kept.get(boundary, {}).get(task)
