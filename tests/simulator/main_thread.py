"""The shell of a main thread in the world: it runs tasks, carries orders out, and handles messages.

The tasks form a ring. In each epoch every task sends its state to its neighbors and makes its next state of its own
and theirs. Half of the values go by rendezvous: a restore overwrites the memory that such a send still borrows, so it
then delivers garbage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from taskgraph.plan import fence, orders, records
from taskgraph.plan.acts import Over
from taskgraph.plan.ending import Ending
from taskgraph.plan.holdings import NO_END, Held
from taskgraph.plan.lineage import is_valid
from taskgraph.plan.manifest import Name
from taskgraph.plan.messages import ALWAYS, Fate, Topic, fate
from taskgraph.plan.phase import Phase
from tests.simulator.graphs import Graphs
from tests.simulator.parts import Rank, Slot
from tests.simulator.schedules import Moment

if TYPE_CHECKING:
    from tests.simulator.world import World


class Message(NamedTuple):
    """Something on its way between two ranks."""

    source: int
    generation: int
    kind: str
    body: Any
    rendezvous: bool = False


def told(message: Message, own: int, tag_bits: int) -> int:
    """Return the generation of a message, as its receiver tells it: by the header.

    Tags have no bits of it; `tag_bits` is for the mutation that reads it off a tag which has a few.
    """
    return message.generation


def source_of(order: orders.Restore) -> Name | None:
    """Return the checkpoint that tasks to be made anew are filled from."""
    return order.checkpoint


class Value(NamedTuple):
    """What a channel carries."""

    epoch: int
    task: int
    source: int
    value: int
    garbage: bool = False


class MainThreads:
    """Runs all main threads."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks = world.schedule.tasks

    # ---- the loop ----

    def poll(self, rank: Rank) -> None:
        """Do whatever can be done now."""
        world = self._world
        if rank.runs and rank.stopped_until > world.now:
            world.after(rank.stopped_until - world.now + 1e-6, self.poll, rank)
            return
        while rank.runs and not rank.busy:
            member = rank.member
            offered = rank.offered
            if offered is not None and offered[0].generation > member.generation:
                rank.offered = None
                self._adopt(rank, *offered)
            elif rank.abort > member.generation and member.phase not in (Phase.AWAY, Phase.LEFT):
                self._interrupt(rank)
            elif rank.orders:
                self._do(rank, rank.orders.popleft())
            elif rank.inbox:
                self._handle(rank, rank.inbox.popleft())
            elif member.phase is not Phase.RUNNING or not self._advance(rank):
                return

    def _interrupt(self, rank: Rank) -> None:
        rank.orders.clear()
        rank.member.interrupted()

    def _adopt(self, rank: Rank, decision: Any, history: dict[int, int]) -> None:
        world = self._world
        rank.orders.clear()
        rank.values.clear()
        rank.sent = False
        rank.run += 1
        world.checks.adopted(rank, decision)
        held = [slot.stamp for slot in rank.host.whole()]
        rank.orders.extend(rank.member.adopt(decision, history, held))
        if self._world.schedule.mismatch_at >= 0:
            rank.graphs = rank.graphs or Graphs(world, rank)
            rank.graphs.adopt(decision)
        early, rank.stash = rank.stash, []
        rank.inbox.extendleft(reversed(early))
        world.checkpoints.adopted(rank, decision)
        world.log("rank %d adopts generation %d at boundary %d", rank.number, decision.generation, decision.boundary)
        world.happens(Moment.ADOPT, rank)

    def _later(self, rank: Rank, duration: float, what: Callable[[Rank], None]) -> None:
        """Keep the main thread busy, and then do something, unless it is another generation's business by then."""
        world = self._world
        rank.busy = True
        run = rank.run

        def end() -> None:
            if rank.stopped_until > world.now:
                world.after(rank.stopped_until - world.now + 1e-6, end)
                return
            rank.busy = False
            if rank.runs and rank.run == run:
                what(rank)
            self.poll(rank)

        world.after(duration, end)

    # ---- orders ----

    def _may_act(self, rank: Rank) -> bool:
        return fence.may_act(rank.member.generation, rank.host.floor)

    def _do(self, rank: Rank, order: orders.Order) -> None:
        if rank.member.phase is not Phase.LEFT and not self._may_act(rank):
            self._interrupt(rank)
            return
        _DO[type(order)](self, rank, order)

    def _send_order(self, rank: Rank, order: orders.Send) -> None:
        self.send(rank, order.to, "control", (order.topic, order.data))

    def _purge(self, rank: Rank, order: orders.Purge) -> None:
        for key, slot in list(rank.host.slots.items()):
            if slot.whole and not is_valid(slot.stamp.boundary, slot.stamp.generation, order.history):
                del rank.host.slots[key]

    def _restore(self, rank: Rank, order: orders.Restore) -> None:
        world = self._world
        delivered = {}
        state = {}
        for stamp in order.slots:
            slot = rank.host.slots.get(stamp[:3])
            if slot is None or not slot.whole:
                world.checks.bad("a published snapshot is gone", f"{stamp} on rank {rank.number}")
            assert slot is not None
            state[stamp.task], delivered[stamp.task] = slot.value, slot.delivered
        for task in order.rebuild:
            source = source_of(order)
            if source is None:
                state[task] = world.checks.initial(task, order.boundary)
            else:
                state[task], delivered[task] = world.checkpoints.complete[source][task]
        rank.state = state
        world.checks.restored(rank, order.boundary)

        def done(rank: Rank) -> None:
            rank.orders.extend(rank.member.restored(delivered))
            world.happens(Moment.RESTORED, rank)

        self._later(rank, world.delay(0.3), done)

    def _snapshot(self, rank: Rank, order: orders.Snapshot) -> None:
        slots = [
            Slot(stamp, rank.state[stamp.task], delivered)
            for stamp, delivered in zip(order.slots, order.delivered, strict=True)
        ]

        def done(rank: Rank) -> None:
            rank.orders.extend(rank.member.snapshot_taken())

        self._write(rank, slots, done)
        self._world.happens(Moment.SNAPSHOT, rank)

    def _write(self, rank: Rank, slots: Iterable[Slot], then: Callable[[Rank], None]) -> None:
        """Copy into slots: torn at first, whole some time later, both refused below the floor."""
        host, generation = rank.host, rank.member.generation
        for slot in slots:
            self._world.checks.begun(host, slot)
            host.slots[slot.stamp[:3]] = slot

        def done(rank: Rank) -> None:
            if fence.may_act(generation, host.floor):
                for slot in slots:
                    slot.whole = host.changed = True
                    self._world.checks.completed(rank, slot)
                then(rank)
            else:
                for slot in slots:
                    if host.slots.get(slot.stamp[:3]) is slot:
                        del host.slots[slot.stamp[:3]]
                self._interrupt(rank)

        self._later(rank, self._world.delay(0.2), done)

    def _replicate(self, rank: Rank, order: orders.Replicate) -> None:
        slot = rank.host.slots.get(order.slot[:3])
        if slot is None or not slot.whole:
            self._world.checks.bad("a snapshot to be sent is gone", f"{order.slot} on rank {rank.number}")
        assert slot is not None
        body = (order.slot, order.base, order.known, slot.value, slot.delivered)
        self.send(rank, order.to, "copy", body)

    def _record(self, rank: Rank, order: orders.Record) -> None:
        host = rank.host
        host.known = max(host.known, order.known)
        self._world.checks.recorded(rank, order.known)
        if order.known.safe > host.freed_below or host.changed:
            host.changed, host.freed_below = False, order.known.safe
            for key, slot in list(host.slots.items()):
                if slot.whole and slot.stamp.boundary < order.known.safe and slot.stamp.boundary != host.held_back:
                    del host.slots[key]
        self._world.checkpoints.recorded(rank, order.known.safe)
        self._world.happens(Moment.COMMIT, rank)

    def _committed(self, rank: Rank, order: orders.Committed) -> None:
        self._world.checks.called(rank, order.task, order.start, order.stop)

    def _run_epoch(self, rank: Rank, order: orders.RunEpoch) -> None:
        rank.epoch, rank.sent = order.epoch, False

    def _exit(self, rank: Rank, order: orders.Exit) -> None:
        self._world.checks.exited(rank, order.tasks)
        self._later(rank, self._world.delay(0.2), lambda rank: rank.orders.extend(rank.member.exited()))
        self._world.happens(Moment.LAST, rank)

    def _mark_over(self, rank: Rank, order: orders.MarkOver) -> None:
        rank.host.over = Over(rank.member.generation, order.status)
        self._world.checks.over(rank)
        self._world.log("rank %d knows that the job is over", rank.number)
        self._world.happens(Moment.OVER, rank)

    def _conclude(self, rank: Rank, order: orders.Conclude) -> None:
        world = self._world
        assert rank.unit is not None
        world.happens(Moment.CONCLUDE, rank)
        generation = rank.member.generation
        if rank.unit.succession.must_write(generation):
            world.units.transact(rank.unit, records.conclude(generation, Ending(status=order.status)))
        else:
            rank.orders.extend(rank.member.concluded())

    def _leave(self, rank: Rank, order: orders.Leave) -> None:
        self._world.log("rank %d leaves with status %d", rank.number, order.ending.status)
        rank.left = order.ending.status
        self._world.checks.left(rank)

    def _overtaken(self, rank: Rank, order: orders.Overtaken) -> None:
        self._world.checks.bad("a published snapshot is gone", f"{order.slot} on rank {rank.number}")

    def ended(self, rank: Rank, ending: Ending, *, everywhere: bool = True) -> None:
        """Tell a main thread that the job is over."""

        def leave() -> None:
            if rank.runs:
                if rank.stopped_until > self._world.now or rank.busy:
                    self._world.after(1 + max(0.0, rank.stopped_until - self._world.now), leave)
                    return
                rank.orders.clear()
                rank.orders.extend(rank.member.ended(ending, everywhere=everywhere))
                rank.abort = -1
                rank.offered = None
                self.poll(rank)

        self._world.after(self._world.delay(0.1), leave)

    # ---- messages ----

    def send(self, rank: Rank, to: int, kind: str, body: Any, *, generation: int | None = None) -> None:
        """Send something: in order for each pair of ranks, and late by any time."""
        world = self._world
        rendezvous = kind == "value" and world.rng.random() < 0.5
        pair = (rank.number, to)
        scale = 8.0 if rendezvous and world.rng.random() < world.schedule.late else 0.4
        at = max(world.fifo[pair] + 1e-6, world.now + world.delay(scale * world.schedule.link))
        world.fifo[pair] = at
        stamp = rank.member.generation if generation is None else generation
        world.after(at - world.now, self._arrive, world.ranks[to], Message(rank.number, stamp, kind, body, rendezvous))

    def _arrive(self, rank: Rank, message: Message) -> None:
        if not rank.runs:
            return
        rank.inbox.append(message)
        self.poll(rank)

    def _handle(self, rank: Rank, message: Message) -> None:
        member = rank.member
        if message.kind == "control" and message.body[0] in ALWAYS:
            rank.orders.extend(member.receive(message.source, *message.body))
            return
        listed = member.decision is not None and message.source in member.decision.host_of
        match fate(member.generation, told(message, member.generation, self._world.schedule.tag_bits), listed):
            case Fate.DELIVER:
                self._deliver(rank, message)
            case Fate.KEEP:
                rank.stash.append(message)
            case Fate.FENCE:
                self.send(rank, message.source, "control", (Topic.FENCED, b""))

    def _deliver(self, rank: Rank, message: Message) -> None:
        member = rank.member
        if message.generation != member.generation:
            self._world.checks.bad("a message crosses generations", str(message))
        if member.phase is Phase.AWAY or not self._may_act(rank):
            return
        if message.kind == "value":
            value = self._pulled(message)
            if value is None:
                return
            rank.values[value.epoch, value.task, value.source] = value
        elif message.kind == "compose":
            assert rank.graphs is not None
            rank.graphs.receive(message.source, message.body)
        elif message.kind == "copy":
            self._copy(rank, message)
        else:
            topic, data = message.body
            if topic is Topic.ACK and member.decision is not None and member.generation > 0:
                self._world.happens(Moment.REFILLED, rank)
            rank.orders.extend(member.receive(message.source, topic, data))

    def _pulled(self, message: Message) -> Value | None:
        """Return the value of a message; by rendezvous it is read from the sender's memory only now."""
        value: Value = message.body
        sender = self._world.ranks[message.source]
        if not message.rendezvous:
            return value
        if not sender.up or not sender.host.up:
            return None
        if sender.member.generation == message.generation:
            return value
        self._world.stats["garbage received"] += 1
        return value._replace(value=hash((value.value, "garbage", self._world.now)), garbage=True)

    def _copy(self, rank: Rank, message: Message) -> None:
        """Take a copy of a snapshot, which may come as the change of an earlier one."""
        slot, base, known, value, delivered = message.body
        whole = [held.stamp for held in rank.host.whole()]
        rank.unusable = None
        if base is not None and self._world.rng.random() < 0.02:  # it is there, but cannot be used
            rank.unusable = base
            whole = [stamp for stamp in whole if stamp[:3] != base[:3]]
        self._world.happens(Moment.COPY, rank)
        for order in rank.member.copy_arrived(message.source, slot, base, known, whole):
            if isinstance(order, orders.Store):
                rank.orders.append(Arrived(order, value, delivered))
            else:
                rank.orders.append(order)

    def _arrived(self, rank: Rank, order: Arrived) -> None:
        store, value, delivered = order
        if store.base is not None and not self._has(rank, store.base):
            self._world.checks.bad("a change comes to one that lacks its base", str(store))

        def done(rank: Rank) -> None:
            rank.orders.extendleft(reversed(rank.member.stored(store.source, store.slot)))

        self._write(rank, [Slot(store.slot, value, delivered)], done)

    def _has(self, rank: Rank, stamp: Held) -> bool:
        slot = rank.host.slots.get(stamp[:3])
        return slot is not None and slot.whole and rank.unusable != stamp

    # ---- epochs ----

    def neighbors(self, task: int) -> list[int]:
        """Return whom a task talks to."""
        return sorted({(task + 1) % self._tasks, (task - 1) % self._tasks} - {task})

    def _advance(self, rank: Rank) -> bool:
        member = rank.member
        assert member.decision is not None
        layout, epoch = member.decision.layout, rank.epoch
        mine = layout.primaries_of(rank.number)
        if not rank.sent:
            rank.sent = True
            if rank.graphs is not None:
                rank.graphs.compose(epoch)
            for task in mine:
                for other in self.neighbors(task):
                    value = Value(epoch, other, task, rank.state[task])
                    to = layout.primary(other)
                    if to == rank.number:
                        rank.values[epoch, other, task] = value
                    else:
                        self.send(rank, to, "value", value)
        if not all((epoch, task, other) in rank.values for task in mine for other in self.neighbors(task)):
            return False
        if 1 in mine and 0 <= self._world.schedule.mismatch_at <= epoch:
            return False  # it waits for the value that nobody sends
        self._compute(rank, mine, epoch)
        return True

    def _compute(self, rank: Rank, mine: tuple[int, ...], epoch: int) -> None:
        world = self._world
        duration = world.delay(0.5) if mine else 0.0
        if mine and world.schedule.slow and world.rng.random() < 0.06:
            duration = world.rng.choice([15.0, 60.0])
        if world.schedule.holds_gil:
            rank.gil_until = world.now + duration
        self._later(rank, duration, lambda rank: self._computed(rank, mine, epoch))

    def _computed(self, rank: Rank, mine: tuple[int, ...], epoch: int) -> None:
        world = self._world
        used = {(task, other): rank.values.pop((epoch, task, other)) for task in mine for other in self.neighbors(task)}
        garbage = any(value.garbage for value in used.values())
        if (garbage and world.rng.random() < 0.5) or (rank.failing and mine):
            self._raise(rank, real=rank.failing and not garbage)
            return
        world.stats["garbage computed"] += garbage
        for task in mine:
            values = [(other, used[task, other].value) for other in self.neighbors(task)]
            rank.state[task] = world.checks.step(task, epoch, rank.state[task], values)
        asked = NO_END
        if world.schedule.by_shutdown and epoch + 1 == world.schedule.epochs and 0 in mine:
            asked = 3
        rank.orders.extend(rank.member.finished(False, asked))

    def _raise(self, rank: Rank, *, real: bool) -> None:
        """Let user code raise: its unit reports that, if it counts."""
        world = self._world
        assert rank.unit is not None
        world.log("user code on rank %d raises%s", rank.number, "" if real else " because of garbage")
        message = "real" if real else "false"
        write = records.fail(rank.number, rank.member.generation, Ending(status=1, message=message))
        world.units.transact(rank.unit, write)
        self._interrupt(rank)


class Arrived(NamedTuple):
    """A copy to be stored, with what came."""

    store: orders.Store
    value: int
    delivered: int


_DO: dict[type, Any] = {
    orders.Send: MainThreads._send_order,
    orders.Purge: MainThreads._purge,
    orders.Restore: MainThreads._restore,
    orders.Snapshot: MainThreads._snapshot,
    orders.Replicate: MainThreads._replicate,
    orders.Record: MainThreads._record,
    orders.Committed: MainThreads._committed,
    orders.RunEpoch: MainThreads._run_epoch,
    orders.Exit: MainThreads._exit,
    orders.MarkOver: MainThreads._mark_over,
    orders.Conclude: MainThreads._conclude,
    orders.Leave: MainThreads._leave,
    orders.Overtaken: MainThreads._overtaken,
    Arrived: MainThreads._arrived,
}
