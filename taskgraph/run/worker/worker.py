"""The main thread of a rank: it obeys its machine (`taskgraph.plan.member`), epoch by epoch, generation by generation.

While an epoch runs, control messages are handled at once, inside the wait for values; at any other time they queue, so
that nothing of the protocol happens between two orders. Before each order the rank looks at the floor of its host:
where its generation is over, the order and the rest are dropped, and the rank waits for the next decision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from taskgraph import trace
from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph._native.steady import Steady
from taskgraph.backends.transport import Handlers, Transport
from taskgraph.errors import EpochAborted
from taskgraph.ids import Epoch, Generation, Host, Rank, TaskId
from taskgraph.plan import orders as do
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.lineage import History
from taskgraph.plan.messages import ALWAYS, Copy, Fate, Topic, fate
from taskgraph.plan.orders import Orders
from taskgraph.plan.phase import Phase
from taskgraph.plan.steady_member import SteadyMember
from taskgraph.program.codec import Codec
from taskgraph.run.state.copies import ArrivedCopy, opened
from taskgraph.run.state.replicas import Program, Replicas
from taskgraph.run.state.snapshots import Snapshots
from taskgraph.run.worker.channel_ends import ChannelEnds
from taskgraph.run.worker.composing import Check, Composing
from taskgraph.run.worker.control import Control, JobEnded
from taskgraph.run.worker.epochs import Epochs

Connect = Callable[[NativeEpoch, Codec, Handlers], Transport]
"""Opens the transport of this rank."""

_TOPICS = {int(topic): topic for topic in Topic}
"""Looked up for every message: calling the enumeration takes 0.4 us more."""

_COMMITTING = (Topic.CONTRIBUTION, Topic.VERDICT, Topic.LEVEL_UP, Topic.LEVEL_DOWN)
_ENDING = (Topic.OVER, Topic.OVER_ACK, Topic.LEAVE)
_COMPOSING = frozenset(map(int, (Topic.DECLARED, Topic.ASK, Topic.COMPOSED)))


class Left(Exception):
    """The rank leaves the job. Internal to the worker."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self._ending = ending

    def status(self) -> int:
        """Return the status of a job that came to its end in order. Raises JobEnded for any other."""
        if self._ending.message:
            raise JobEnded(self._ending)
        return self._ending.status


class Worker:
    """Runs the tasks of one rank.

    Parameters
    ----------
    decision
        Of generation 0.
    connect
        Opens the transport; None in a job of one rank.
    check
        Is given each changed graph as a whole, on the root of the tree; an error it finds must end the job.
    """

    def __init__(
        self,
        program: Program,
        rank: Rank,
        host: Host,
        decision: Decision,
        connect: Connect | None,
        check: Check,
        snapshots: Snapshots,
        control: Control,
    ) -> None:
        config = program.config
        self._rank = rank
        self._control = control
        self._snapshots = snapshots
        self._decision = decision
        self._member = SteadyMember(rank, host, epochs=config.epochs, every=config.protect_every, steady=Steady)
        codec = Codec()
        self._epoch = NativeEpoch(codec)
        self._transport: Transport | None = None
        if connect is not None:
            handlers = Handlers(self._on_control, self._on_copy, self._on_stray, control.lost)
            self._transport = connect(self._epoch, codec, handlers)
            self._transport.urgent = ALWAYS
        self._replicas = Replicas(program, self._epoch, ChannelEnds(self._epoch))
        self._composing = Composing(rank, self._replicas, self._epoch, self._transport, check)
        self._queue: deque[tuple[Callable[..., Orders], tuple[Any, ...]]] = deque()
        self._epochs = Epochs(
            self._member,
            self._replicas,
            self._composing,
            self._epoch,
            self._transport,
            snapshots,
            control,
            self._queue,
            self._handle_all,
            self._obey,
        )
        self._arrived: ArrivedCopy | None = None

    def run(self) -> int:
        """Run the job to its end.

        Returns
        -------
        int
            The status of the job.

        Raises
        ------
        JobEnded
            It ended otherwise.
        Exception
            In one process: whatever user code raises, as it is.
        """
        decision = self._decision
        history = decision.history
        while True:
            try:
                self._run_generation(decision, history)
            except Left as left:
                return left.status()
            except EpochAborted:
                pass
            except BaseException as error:
                self._fail(error)
            self._member.interrupted()
            self._epochs.interrupted()
            self._queue.clear()
            trace.reached("recovery.left")
            try:
                decision, history = self._control.next_decision(self._member.generation, self._serve)
            except Left as left:
                return left.status()
            except JobEnded as ended:
                self._pass_on(ended)
                raise
            trace.reached("recovery.decided")

    def _fail(self, error: BaseException) -> None:
        try:
            self._control.fail(error, *self.where(), self._member.generation)
        except JobEnded as ended:
            self._pass_on(ended)
            raise

    def _pass_on(self, ended: JobEnded) -> None:
        """Tell the ranks around this one: they may be cut off from etcd."""
        for order in self._member.ended(ended.ending, everywhere=ended.everywhere):
            if isinstance(order, do.Send):
                self._send(order)

    def close(self) -> int:
        """Let go of everything. Returns the number of sends that MPI has not completed."""
        self._epoch.close()
        return self._transport.close() if self._transport is not None else 0

    def where(self) -> tuple[TaskId | None, Epoch | None]:
        """Return the task and the epoch whose user code runs or has just raised."""
        running = self._epoch.running
        at = self._epoch.entered
        return running.task if running is not None else self._epoch.caller, at if at >= 0 else None

    @property
    def generation(self) -> Generation:
        """The generation that this rank has adopted."""
        return self._member.generation

    # ---- one generation ----

    def _run_generation(self, decision: Decision, history: History) -> None:
        """Adopt a decision and obey until the rank leaves or is told that the generation is over."""
        self._decision = decision
        self._queue.clear()
        self._epoch.close()
        if self._transport is not None:
            self._transport.adopt(decision.generation)
        self._composing.adopt(decision)
        orders = self._member.adopt(decision, history, self._snapshots.held())
        if self._transport is not None:
            self._transport.deliver_early()
        while True:
            orders = self._obey(orders)
            while not orders:
                if self._queue:
                    orders = self._next()
                else:
                    assert self._transport is not None  # alone, nothing has to be waited for
                    self._transport.pump()

    def _obey(self, orders: Orders) -> Orders:
        """Carry orders out, and return what the answer to the last of them brings."""
        answer: Orders = ()
        if not orders:
            return answer
        ends = isinstance(orders[-1], do.Leave)  # that holds in any generation
        admits, generation = self._snapshots.admits, self._member.generation
        for order in orders:
            if not ends and not admits(generation):  # `plan.fence.may_act`
                raise EpochAborted
            answer = _HOW[type(order)](self, order) or ()
        return answer

    def _serve(self) -> bool:
        """Between generations: drain what still comes in, and heed what is urgent; return whether something came."""
        came = self._transport is not None and self._transport.serve()
        while self._queue:
            orders = self._next()
            if orders and isinstance(orders[-1], do.Leave):  # what else may come is of the generation that is over
                self._obey(orders)
        return came

    # ---- orders ----

    def _send(self, order: do.Send) -> None:
        assert self._transport is not None
        self._transport.send_control(order.to, order.topic, 0, order.data)
        if trace.hook is not None and order.topic in _COMMITTING:
            trace.hook("commit.said", None)
        elif trace.hook is not None and order.topic in _ENDING:
            trace.hook("commit.ending", None)

    def _run_epoch(self, order: do.RunEpoch) -> Orders:
        return self._epochs.run(order.epoch)

    def _snapshot(self, order: do.Snapshot) -> Orders:
        self._snapshots.take(order, self._replicas)
        trace.reached("snapshot.whole")
        return self._member.snapshot_taken()

    def _restore(self, order: do.Restore) -> Orders:
        if self._decision.follows_failure:
            trace.reached("recovery.adopted")
        delivered = self._replicas.adopt(order, self._member.generation, self._snapshots)
        if self._transport is not None:
            for replica in self._replicas:
                for array in replica.arrays:
                    self._transport.protect(array)
        self._control.resumed(self._decision)
        if self._decision.follows_failure:
            trace.reached("recovery.restored", self._decision)
        return self._member.restored(delivered)

    def _purge(self, order: do.Purge) -> None:
        self._snapshots.adopt(self._member.generation, order.history)

    def _record(self, order: do.Record) -> None:
        trace.reached("commit.heard")
        self._snapshots.record(order.known)
        trace.reached("commit.recorded")

    def _replicate(self, order: do.Replicate) -> None:
        assert self._transport is not None
        trace.reached("replicate.begin")
        frames = self._snapshots.outgoing(order)
        if frames is not None:
            self._transport.send_copy(order.to, frames)
            trace.reached("replicate.sent")

    def _committed(self, order: do.Committed) -> None:
        self._replicas.may_ask = self._member.phase is not Phase.ENDING
        self._replicas.committed(order.task, order.start, order.stop)

    def _exit(self, order: do.Exit) -> Orders:
        self._control.finishing()
        self._composing.finished(self._member.boundary - 1)
        self._replicas.may_ask = False
        if trace.hook is not None:
            trace.hook("exit", (self._member.generation, [one for one in self._replicas if one.id in order.tasks]))
            trace.hook("commit.exiting", None)
        self._replicas.exit(order.tasks)
        return self._member.exited()

    def _mark_over(self, order: do.MarkOver) -> None:
        self._snapshots.mark_over(self._member.generation, order.status)

    def _conclude(self, order: do.Conclude) -> Orders:
        self._control.conclude(self._member.generation, order.status)
        return self._member.concluded()

    def _leave(self, order: do.Leave) -> None:
        raise Left(order.ending)

    def _overtaken(self, order: do.Overtaken) -> None:
        raise EpochAborted

    # ---- messages; these run inside a wait of the transport ----

    def _on_control(self, source: Rank, topic: int, epoch: Epoch, data: bytes) -> None:
        said = _TOPICS[topic]
        if topic in _COMPOSING:
            self._composing.receive(source, said, epoch, data)
            return
        if said is Topic.FENCED:
            self._control.fenced(source)
        self._take(self._member.receive, source, said, data)

    def _on_copy(self, source: Rank, frames: list[Any]) -> None:
        copy = opened(frames)
        if self._epochs.are_committing and not self._queue and self._member.takes_at_once(copy.known):
            self._obey(self._copy(source, copy))
        else:
            self._take(self._copy, source, copy)

    def _copy(self, source: Rank, copy: ArrivedCopy) -> Orders:
        self._arrived = copy
        return self._member.copy_arrived(
            source, copy.slot, copy.base, copy.known, self._snapshots.held_of(copy.slot.task)
        )

    def _store(self, order: do.Store) -> None:
        """Write the copy that has just arrived: in its place among the orders, as a commit before it may make room."""
        arrived, self._arrived = self._arrived, None
        assert arrived is not None
        trace.reached("replicate.arrived")
        if self._snapshots.store(arrived):
            trace.reached("replicate.stored")
            self._obey(self._member.stored(order.source, order.slot))
        else:  # what was to be changed is not there, or the copy was damaged on its way
            copy = Copy(order.slot.task, order.slot.boundary).encode()
            self._send(do.Send(order.source, Topic.WANT_WHOLE, copy))

    def _take(self, event: Callable[..., Orders], *details: Any) -> None:
        if self._epochs.are_computing:
            self._obey(event(*details))
        else:
            self._queue.append((event, details))

    def _handle_all(self) -> None:
        """Handle the messages that wait."""
        while self._queue:
            self._obey(self._next())

    def _next(self) -> Orders:
        """Take the message that has waited longest."""
        event, details = self._queue.popleft()
        return event(*details)

    def _on_stray(self, source: Rank, generation: Generation) -> None:
        listed = source in self._decision.host_of
        if fate(self._member.generation, generation, listed) is Fate.FENCE and self._transport is not None:
            self._transport.send_control(source, Topic.FENCED, 0, b"")


_HOW: Mapping[type, Callable[[Worker, Any], Orders | None]] = {
    do.Send: Worker._send,
    do.RunEpoch: Worker._run_epoch,
    do.Snapshot: Worker._snapshot,
    do.Restore: Worker._restore,
    do.Purge: Worker._purge,
    do.Record: Worker._record,
    do.Replicate: Worker._replicate,
    do.Store: Worker._store,
    do.Committed: Worker._committed,
    do.Exit: Worker._exit,
    do.MarkOver: Worker._mark_over,
    do.Conclude: Worker._conclude,
    do.Leave: Worker._leave,
    do.Overtaken: Worker._overtaken,
}
