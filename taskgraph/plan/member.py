"""What the main thread of a rank does about generations, commits and snapshots: events in, orders out.

Rule 1: between two generations a rank does nothing but wait for the decision, or for the end. Rule 2: an epoch begins
when the one before is committed and its snapshot, if one is due, is whole. Rule 3: nothing of the protocol calls user
code while an epoch runs: what a commit allows then waits for the end of the epoch. Rule 4: how far state is kept
travels with the commits; alone only where somebody may be waiting for it: first in a generation, when slots are short,
and at the end.

The shell (`taskgraph.run.worker`) carries orders out and reports; see `taskgraph.plan.orders` for how.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum, auto

from taskgraph.ids import Epoch, Host, Rank, TaskId
from taskgraph.plan import adoption, grid
from taskgraph.plan.commit import UNBOUNDED, Contribution, Level, Verdict, verdict
from taskgraph.plan.decision import Decision
from taskgraph.plan.delivery import Delivery
from taskgraph.plan.holdings import NO_END, Held, Known
from taskgraph.plan.lineage import History
from taskgraph.plan.messages import Copy, Topic
from taskgraph.plan.orders import (
    Conclude,
    Exit,
    Leave,
    MarkOver,
    Order,
    Orders,
    Overtaken,
    Purge,
    Record,
    Replicate,
    RunEpoch,
    Send,
    Snapshot,
)
from taskgraph.plan.replication import Replication, Sending, arrived
from taskgraph.plan.tree import Tree

NOTHING: Orders = ()


class Phase(Enum):
    """What a main thread is about."""

    AWAY = auto()
    """Between generations."""
    RESTORING = auto()
    RUNNING = auto()
    """In an epoch."""
    SAVING = auto()
    """Copying state into slots."""
    WAITING = auto()
    """For a verdict, or for a free slot."""
    ENDING = auto()
    """The last epoch is finished; what it left behind becomes safe."""
    OVER = auto()
    """Known to be over; not everybody may know."""
    LEFT = auto()


class Member:
    """One rank, from one generation to the next.

    Parameters
    ----------
    epochs
        After so many the job ends; None: when somebody asks for it.
    every
        Epochs between two snapshots.

    Attributes
    ----------
    generation
        The newest adopted; -1: none yet.
    boundary
        The newest that this rank has reached.
    """

    def __init__(self, rank: Rank, host: Host, *, epochs: int | None, every: int) -> None:
        self._rank = rank
        self._host = host
        self._epochs = epochs
        self._every = every
        self._exited: set[TaskId] = set()
        self._ever_listed: set[Rank] = set()
        self.phase = Phase.AWAY
        self.generation = -1
        self.boundary: Epoch = -1
        self.decision: Decision | None = None

    # ---- from one generation to the next ----

    def interrupted(self) -> None:
        """Note that the generation is over: the epoch was left, and messages of it count no more."""
        if self.phase is not Phase.LEFT:
            self.phase = Phase.AWAY

    def adopt(self, decision: Decision, history: History, held: Iterable[Held]) -> Orders:
        """Enter a generation.

        Parameters
        ----------
        history
            The resume boundaries of all generations up to this one.
        held
            The whole snapshots on this host.
        """
        self.decision, self.generation = decision, decision.generation
        self.boundary = decision.boundary
        self.phase = Phase.RESTORING
        self._tree = Tree(decision, self._rank)
        self._tasks = decision.layout.primaries_of(self._rank)
        self._replication = Replication(decision, self._host, self._tasks)
        self._delivery = Delivery()
        self._safe, self._all_delivered = decision.safe, decision.delivered
        self._end = adoption.ends_with(decision, self._epochs, NO_END)
        self._end_at = decision.boundary if self._end != NO_END else -1
        self._idle, self._asked = False, NO_END
        self._contributed = self._committed = True
        self._unheard = decision.generation > 0
        self._acted = self._finishing = False
        self._pending: tuple[TaskId, ...] = ()
        self._kept = adoption.valid_of(self._tasks, held, history)
        restore = adoption.to_restore(decision, self._rank, self._kept)
        if isinstance(restore, Overtaken):
            return (restore,)
        self._pending = restore.rebuild
        return (*self._tell_dropped(decision), Purge(history), restore)

    def _tell_dropped(self, decision: Decision) -> list[Send]:
        self._ever_listed.update(decision.live)
        if not self._tree.is_root:
            return []
        return [Send(rank, Topic.FENCED) for rank in adoption.dropped(self._ever_listed, decision)]

    def restored(self, delivered: Mapping[TaskId, Epoch]) -> Orders:
        """Go on once the state is that of the boundary resumed from.

        Parameters
        ----------
        delivered
            What the restored slots record, by task.
        """
        assert self.decision is not None
        for task in self._tasks:
            self._delivery.restored(task, delivered.get(task, self.decision.delivered), self._safe)
        orders = self._sent(self._replication.refill(self._kept.values()))
        if not self._pending:
            self._replication.saved((), self.boundary)
            self._say_level(orders)
        return self._go_on(orders)

    # ---- from one epoch to the next ----

    def finished(self, idle: bool, asked: int) -> Orders:
        """Take that this rank has finished its epoch.

        Parameters
        ----------
        idle
            None of its tasks composed anything.
        asked
            The highest status that one of its tasks asked the job to end with, or `NO_END`.
        """
        self.boundary += 1
        self._idle, self._asked = idle, asked
        self._contributed = self._committed = False
        self._pending = grid.due(self.boundary, self._every, self._tasks)
        return self._go_on([])

    def snapshot_taken(self) -> Orders:
        """Take that the snapshot that was ordered is whole."""
        slots = [self._kept[task, self.boundary] for task in self._pending]
        self._pending = ()
        orders = self._sent(self._replication.saved(slots, self.boundary))
        if self._contributed:
            self._say_level(orders)
        return self._go_on(orders)

    def _go_on(self, orders: list[Order]) -> Orders:
        """Do what comes next between two epochs, as far as it can be done."""
        if not self._contributed and not self._can_save():
            self._contribute(orders)
        if self._can_save():
            orders.append(self._snapshot())
            self.phase = Phase.SAVING
        elif not self._committed or self._pending:
            self.phase = Phase.WAITING
        elif self.boundary == self._end_at:
            self.phase = Phase.ENDING
            self._end_epochs(orders)
        else:
            self.phase = Phase.RUNNING
            orders.append(RunEpoch(self.boundary))
        return tuple(orders)

    def _can_save(self) -> bool:
        return bool(self._pending) and grid.has_room(len({boundary for _, boundary in self._kept}))

    def _snapshot(self) -> Snapshot:
        end = self._end if self.boundary == self._end_at else self._asked
        slots = tuple(Held(task, self.boundary, self.generation, end) for task in self._pending)
        for slot in slots:
            self._kept[slot.task, slot.boundary] = slot
        return Snapshot(self.boundary, slots, tuple(self._delivery.upto(task) for task in self._pending))

    # ---- commits ----

    @property
    def _level(self) -> Level:
        if not self._tasks:
            return Level(UNBOUNDED, UNBOUNDED)
        return Level(self._replication.safe, self._delivery.lowest)

    def _contribute(self, orders: list[Order]) -> None:
        self._contributed = True
        asked = self._asked != NO_END
        safe, delivered = self._level
        own = Contribution(self.boundary - 1, self._idle, asked, max(self._asked, 0), safe, delivered)
        whole = self._tree.contribute(own, orders)
        if whole is not None:
            self._decided(verdict(whole, self._epochs), orders)

    def _decided(self, said: Verdict, orders: list[Order]) -> None:
        """Take that an epoch is finished on every rank."""
        self._tree.down(Topic.VERDICT, said.encode(), orders)
        self._committed, self._unheard = True, False
        if said.last:
            self._end_at, self._end = said.epoch + 1, said.status
        self._heard(said.safe, said.delivered, orders)
        if self.boundary == self._end_at and self._replication_lacks_end():
            self._pending = self._tasks

    def _replication_lacks_end(self) -> bool:
        return any((task, self.boundary) not in self._kept for task in self._tasks)

    def _heard(self, safe: Epoch, delivered: Epoch, orders: list[Order]) -> None:
        """Act on a commit: it is the only thing that frees snapshots."""
        self._acted = True
        self._safe = max(self._safe, safe)
        self._all_delivered = max(self._all_delivered, delivered)
        orders.append(Record(self._known))
        for key in [key for key in self._kept if key[1] < self._safe]:
            del self._kept[key]
        if self.phase is not Phase.RUNNING:
            orders += self._delivery.due(self._safe)

    @property
    def _known(self) -> Known:
        delivered = min(self._all_delivered, self._safe)
        return Known(self.generation, self._safe, delivered, self._end_at, self._end)

    # ---- what is kept, between commits ----

    def _is_short(self) -> bool:
        """Whether some rank may soon wait for a commit to free a slot."""
        return self.boundary - self._safe >= (grid.SLOTS - 1) * self._every

    def _say_level(self, orders: list[Order]) -> None:
        """Pass on how far state is kept, where somebody may be waiting for it."""
        if self._unheard or self.phase is Phase.ENDING or self._end_at >= 0 or self._is_short():
            level = self._tree.say_level(self._level, orders)
            if self._tree.is_root:
                self._raise_level(level, orders)

    def _raise_level(self, level: Level, orders: list[Order]) -> None:
        """Tell all, at the root, how far the job has got."""
        news = level.safe > self._safe or level.delivered > self._all_delivered
        if level.safe >= 0 and (news or self._unheard):
            self._take_level(level, orders)

    def _take_level(self, level: Level, orders: list[Order]) -> None:
        self._tree.down(Topic.LEVEL_DOWN, level.encode(), orders)
        self._unheard = False
        self._heard(level.safe, level.delivered, orders)
        reached = self._end_at >= 0 and self._safe >= self._end_at and self._all_delivered > self._end_at
        if self._tree.is_root and reached:
            self._over(orders)

    def _end_epochs(self, orders: list[Order]) -> None:
        """Make the calls that follow the last epoch, once it is safe, and say so."""
        if self._safe >= self._end_at and not self._finishing:
            self._finishing = True
            orders += self._delivery.due(self._safe)
            tasks = tuple(task for task in self._tasks if task not in self._exited)
            if tasks:
                orders.append(Exit(tasks))
                return
            self._delivery.exited(self._tasks, self._end_at)
        self._say_level(orders)

    def exited(self) -> Orders:
        """Take that ``exit`` has returned on all tasks; it is not called again in this process."""
        self._exited.update(self._tasks)
        self._delivery.exited(self._tasks, self._end_at)
        orders: list[Order] = []
        self._say_level(orders)
        return tuple(orders)

    # ---- the end, in two phases ----

    def _over(self, orders: list[Order]) -> None:
        """Take that the job is over: say so on the host before anybody else hears it from here."""
        self.phase = Phase.OVER
        orders.append(MarkOver(self._end))
        self._tree.down(Topic.OVER, bytes([self._end]), orders)
        self._acknowledge(orders)

    def _acknowledge(self, orders: list[Order]) -> None:
        if not self._tree.all_acknowledged:
            return
        if self._tree.is_root:
            orders.append(Conclude(self._end))
        else:
            self._tree.up(Topic.OVER_ACK, b"", orders)

    def concluded(self) -> Orders:
        """Leave, at the root, once the end is written where it has to be."""
        return self._leave(self._end)

    def ended(self, status: int) -> Orders:
        """Leave because the job has ended otherwise."""
        self.phase = Phase.LEFT
        return (Leave(status),)

    def _leave(self, status: int) -> Orders:
        self.phase = Phase.LEFT
        orders: list[Order] = []
        self._tree.down(Topic.LEAVE, bytes([status]), orders)
        return (*orders, Leave(status))

    # ---- messages ----

    def receive(self, source: Rank, topic: Topic, data: bytes) -> Orders:
        """Take a control message of this rank's own generation (`Topic.FENCED`: of any)."""
        if topic is Topic.FENCED:
            return self.ended(1)
        if self.phase is Phase.AWAY or self.phase is Phase.LEFT:
            return NOTHING
        orders: list[Order] = []
        _HANDLERS[topic](self, source, data, orders)
        return self._then(orders)

    def _then(self, orders: list[Order]) -> Orders:
        """See whether what was heard is what this rank was waiting for."""
        if self.phase is Phase.WAITING:
            return self._go_on(orders)
        if self.phase is Phase.ENDING:
            self._end_epochs(orders)
        return tuple(orders)

    def _on_contribution(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        whole = self._tree.contributed(source, Contribution.decode(data), self._level, orders)
        if whole is not None:
            self._decided(verdict(whole, self._epochs), orders)
        else:
            self._say_level(orders)

    def _on_verdict(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._decided(Verdict.decode(data), orders)

    def _on_level_up(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._tree.heard_level(source, Level.decode(data))
        self._say_level(orders)

    def _on_level_down(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._take_level(Level.decode(data), orders)

    def _on_ack(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        assert self.decision is not None
        task, boundary = Copy.decode(data)
        self._replication.acked(task, self.decision.host_of[source], boundary)
        self._say_level(orders)

    def _on_want_whole(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        slot = self._kept.get(Copy.decode(data))
        if slot is not None:
            orders.append(Replicate(source, slot, None, self._known))

    def _on_over(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._over(orders)

    def _on_over_ack(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._tree.acknowledged(source)
        self._acknowledge(orders)

    def _on_leave(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        orders += self._leave(data[0])

    # ---- copies of others' snapshots ----

    def copy_arrived(
        self, source: Rank, slot: Held, base: Held | None, known: Known, whole: Collection[Held]
    ) -> Orders:
        """Take a snapshot that a primary sent to this backup.

        Parameters
        ----------
        base
            What arrived is a change of this snapshot; None: it is the whole.
        known
            The newest commit that the primary had received; it is received with this, which keeps slots free.
        whole
            The whole snapshots of that task on this host, or all.
        """
        if self.phase in (Phase.AWAY, Phase.LEFT):
            return NOTHING
        orders: list[Order] = []
        if known.safe > self._safe or not self._acted:
            self._heard(known.safe, known.delivered, orders)
        orders.append(arrived(source, slot, base, whole))
        return self._then(orders)

    def stored(self, source: Rank, slot: Held) -> Orders:
        """Acknowledge a copy that is whole now."""
        return (Send(source, Topic.ACK, Copy(slot.task, slot.boundary).encode()),)

    def _sent(self, sendings: Iterable[Sending]) -> list[Order]:
        return [Replicate(to, slot, base, self._known) for to, slot, base in sendings]


_HANDLERS = {
    Topic.CONTRIBUTION: Member._on_contribution,
    Topic.VERDICT: Member._on_verdict,
    Topic.LEVEL_UP: Member._on_level_up,
    Topic.LEVEL_DOWN: Member._on_level_down,
    Topic.ACK: Member._on_ack,
    Topic.WANT_WHOLE: Member._on_want_whole,
    Topic.OVER: Member._on_over,
    Topic.OVER_ACK: Member._on_over_ack,
    Topic.LEAVE: Member._on_leave,
}
