"""What the main thread of a rank does about generations, commits and snapshots: events in, orders out.

Rule 1: between two generations a rank does nothing but wait for the decision, or for the end. Rule 2: an epoch begins
when the one before is committed and its snapshot, if one is due, is whole. Rule 3: nothing of the protocol calls user
code while an epoch runs: what a commit allows then waits for the end of the epoch.

The shell (`taskgraph.run.worker.worker`) carries orders out and reports; see `taskgraph.plan.orders` for how.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from taskgraph.ids import Epoch, Host, Rank, TaskId
from taskgraph.plan import adoption
from taskgraph.plan.commit import UNBOUNDED, Contribution, Level, Verdict
from taskgraph.plan.decision import Decision
from taskgraph.plan.delivery import Delivery
from taskgraph.plan.ending import Ending
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
    Replicate,
    RunEpoch,
    Send,
    Snapshot,
)
from taskgraph.plan.phase import Phase
from taskgraph.plan.replication import Sending, arrived
from taskgraph.plan.snapshots import Snapshots
from taskgraph.plan.standing import Standing

NOTHING: Orders = ()


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
        self.phase = Phase.AWAY
        self.generation = -1
        self.boundary: Epoch = -1
        self.decision: Decision | None = None

    @property
    def has_backups(self) -> bool:
        """Whether snapshots of this rank go to other hosts."""
        return bool(self._snapshots.backups)

    @property
    def is_behind(self) -> bool:
        """Whether a backup has not said yet that it has the newest snapshot."""
        return self._snapshots.is_behind

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
            The resume boundaries of all generations up to this one; later ones do not count.
        held
            The whole snapshots on this host.
        """
        self.decision, self.generation = decision, decision.generation
        self.boundary = decision.boundary
        self.phase = Phase.RESTORING
        history = {generation: at for generation, at in history.items() if generation <= decision.generation}
        self._snapshots = Snapshots(decision, self._rank, self._host, held, history)
        self._tasks = self._snapshots.tasks
        self._standing = Standing(decision, self._rank, self._snapshots, self._epochs, self._every)
        self._tree = self._standing.tree
        self._delivery = Delivery()
        self._idle, self._asked = False, NO_END
        self._contributed = True
        self._finishing = False
        restore = self._snapshots.restore
        if isinstance(restore, Overtaken):
            return (restore,)
        told = adoption.to_be_told(decision) if self._tree.is_root else ()
        return (*(Send(rank, Topic.FENCED) for rank in told), Purge(history), restore)

    def restored(self, delivered: Mapping[TaskId, Epoch]) -> Orders:
        """Go on once the state is that of the boundary resumed from.

        Parameters
        ----------
        delivered
            What the restored slots record, by task.
        """
        assert self.decision is not None
        for task in self._tasks:
            self._delivery.restored(task, delivered.get(task, self.decision.delivered), self._standing.safe)
        orders = self._sent(self._snapshots.restored())
        if not self._snapshots.are_pending:
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
        self._contributed = False
        self._snapshots.reached(self.boundary, self._every)
        return self._go_on([])

    def snapshot_taken(self) -> Orders:
        """Take that the snapshot that was ordered is whole."""
        orders = self._sent(self._snapshots.taken())
        if self._contributed:
            self._say_level(orders)
        return self._go_on(orders)

    def _go_on(self, orders: list[Order]) -> Orders:
        """Do what comes next between two epochs, as far as it can be done."""
        snapshots, standing = self._snapshots, self._standing
        begins = snapshots.can_begin
        if not begins and not self._contributed:
            self._contribute(orders)
            begins = snapshots.can_begin
        if begins:
            orders.append(self._snapshot())
            self.phase = Phase.SAVING
        elif standing.committed < self.boundary or snapshots.are_pending:
            self.phase = Phase.WAITING
            orders += self._delivery.due(standing.safe)
        elif self.boundary == standing.end_at:
            self.phase = Phase.ENDING
            self._end_epochs(orders)
        else:
            self.phase = Phase.RUNNING
            orders += self._delivery.due(standing.safe)
            orders.append(RunEpoch(self.boundary))
        return tuple(orders)

    def _snapshot(self) -> Snapshot:
        end = self._standing.end if self.boundary == self._standing.end_at else self._asked
        slots = self._snapshots.begin(self.generation, end)
        delivered = tuple(self._delivery.upto(slot.task) for slot in slots)
        return Snapshot(self.boundary, slots, delivered)

    def _level(self) -> Level:
        if not self._tasks:
            return Level(UNBOUNDED, UNBOUNDED)
        return Level(self._snapshots.safe, self._delivery.lowest)

    def _contribute(self, orders: list[Order]) -> None:
        self._contributed = True
        asked = self._asked != NO_END
        safe, delivered = self._level()
        own = Contribution(self.boundary - 1, self._idle, asked, max(self._asked, 0), safe, delivered)
        self._standing.contribute(own, orders)

    def _say_level(self, orders: list[Order]) -> None:
        self._standing.say_level(self._level, orders)

    # ---- the end ----

    def _end_epochs(self, orders: list[Order]) -> None:
        """Make the calls that follow the last epoch, once it is safe, and say so."""
        standing = self._standing
        orders += self._delivery.due(standing.safe)
        if standing.safe >= standing.end_at and not self._finishing:
            self._finishing = True
            tasks = tuple(task for task in self._tasks if task not in self._exited)
            if tasks:
                orders.append(Exit(tasks))
                return
            self._delivery.exited(self._tasks, standing.end_at)
        self._say_level(orders)
        if standing.is_over and self._tree.is_root:
            self._over(orders)

    def exited(self) -> Orders:
        """Take that ``exit`` has returned on all tasks; it is not called again in this process."""
        self._exited.update(self._tasks)
        self._delivery.exited(self._tasks, self._standing.end_at)
        return self._then([])

    def _over(self, orders: list[Order]) -> None:
        """Take that the job is over: say so on the host before anybody else hears it from here."""
        self.phase = Phase.OVER
        status = self._standing.end
        orders.append(MarkOver(status))
        self._tree.down(Topic.OVER, bytes([status]), orders)
        self._acknowledge(orders)

    def _acknowledge(self, orders: list[Order]) -> None:
        if not self._tree.all_acknowledged:
            return
        if self._tree.is_root:
            orders.append(Conclude(self._standing.end))
        else:
            self._tree.up(Topic.OVER_ACK, b"", orders)

    def concluded(self) -> Orders:
        """Leave, at the root, once the end is written where it has to be."""
        return self.ended(Ending(status=self._standing.end))

    def ended(self, ending: Ending, *, everywhere: bool = True) -> Orders:
        """Leave because the job has ended.

        Parameters
        ----------
        everywhere
            The end is that of the job, so others are told, who may be cut off from where this one learned of it. False:
            this rank gives up, because etcd is away; those to whom it is not may have begun a generation without it.
        """
        self.phase = Phase.LEFT
        orders: list[Order] = []
        if everywhere and self.generation >= 0:
            self._tree.around(Topic.LEAVE, ending.encode(), orders)
        return (*orders, Leave(ending))

    # ---- messages ----

    def receive(self, source: Rank, topic: Topic, data: bytes) -> Orders:
        """Take a control message of this rank's own generation (`messages.ALWAYS`: of any)."""
        if self.phase is Phase.LEFT:
            return NOTHING
        if topic is Topic.FENCED:
            self.phase = Phase.LEFT
            return (Leave(Ending(status=1)),)
        if topic is Topic.LEAVE:
            return self.ended(Ending.decode(data))
        if self.phase is Phase.AWAY:
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
        if not self._standing.contributed(source, Contribution.decode(data), self._level, orders):
            self._say_level(orders)

    def _on_verdict(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._standing.decided(Verdict.decode(data), orders)

    def _on_level_up(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._tree.heard_level(source, Level.decode(data))
        self._say_level(orders)

    def _on_level_down(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._standing.take_level(Level.decode(data), orders)

    def _on_ack(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        assert self.decision is not None
        task, boundary = Copy.decode(data)
        self._snapshots.acked(task, self.decision.host_of[source], boundary)
        self._say_level(orders)

    def _on_want_whole(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        slot = self._snapshots.find(*Copy.decode(data))
        if slot is not None:
            orders.append(Replicate(source, slot, None, self._standing.known))

    def _on_over(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._over(orders)

    def _on_over_ack(self, source: Rank, data: bytes, orders: list[Order]) -> None:
        self._tree.acknowledged(source)
        self._acknowledge(orders)

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
            The whole snapshots of that task on this host. What status they carry does not matter.
        """
        if self.phase in (Phase.AWAY, Phase.LEFT):
            return NOTHING
        orders: list[Order] = []
        if known.safe > self._standing.safe or not self._standing.acted:
            self._standing.hear(known.safe, known.delivered, orders)
        orders.append(arrived(source, slot, base, whole))
        return self._then(orders)

    def stored(self, source: Rank, slot: Held) -> Orders:
        """Acknowledge a copy that is whole now."""
        return (Send(source, Topic.ACK, Copy(slot.task, slot.boundary).encode()),)

    def _sent(self, sendings: Iterable[Sending]) -> list[Order]:
        return [Replicate(to, slot, base, self._standing.known) for to, slot, base in sendings]


_HANDLERS = {
    Topic.CONTRIBUTION: Member._on_contribution,
    Topic.VERDICT: Member._on_verdict,
    Topic.LEVEL_UP: Member._on_level_up,
    Topic.LEVEL_DOWN: Member._on_level_down,
    Topic.ACK: Member._on_ack,
    Topic.WANT_WHOLE: Member._on_want_whole,
    Topic.OVER: Member._on_over,
    Topic.OVER_ACK: Member._on_over_ack,
}
