"""The main loop of a rank: compose, connect, compute, commit, epoch after epoch.

Everything between ranks besides the values goes up and down one tree (`plan.routes`): contributions to a commit and its
verdict, and, when a graph changed, what was declared. The epoch never waits for the check of a graph; where a mistake in
it keeps ranks waiting, the root notices that it waits and asks who has composed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph.backends.transport import OnControl, OnLost, OnStray, Transport
from taskgraph.errors import GraphError, PeerLost, UsageError
from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan.commit import Contribution, Reduction, Verdict, verdict
from taskgraph.plan.declarations import Declarations
from taskgraph.plan.layout import Layout
from taskgraph.plan.routes import tree_place
from taskgraph.program.codec import Codec
from taskgraph.program.graph import TaskGraph
from taskgraph.run.ends import Ends
from taskgraph.run.replicas import Program, Replica, make_replica

Connect = Callable[[NativeEpoch, Codec, OnControl, OnStray, OnLost], Transport]
"""Opens the transport of this rank."""

Check = Callable[[Mapping[TaskId, TaskGraph], Epoch], None]
"""Checks a graph, at once or in another thread."""


class Topic(IntEnum):
    """What a control message is about."""

    CONTRIBUTION = 1
    VERDICT = 2
    DECLARED = 3
    ASK = 4
    COMPOSED = 5


class Worker:
    """Runs the tasks of one rank.

    Parameters
    ----------
    live
        The ranks of the job, ascending.
    connect
        Opens the transport; None in a job of one rank.
    check
        Is given each changed graph as a whole, on the root; an error it finds must end the job.
    progress
        Called with the number of finished epochs, on every rank, after each.
    """

    def __init__(
        self,
        program: Program,
        rank: Rank,
        live: Sequence[Rank],
        layout: Layout,
        connect: Connect | None,
        check: Check,
        progress: Callable[[Epoch], None],
    ) -> None:
        self._program = program
        self._rank = rank
        self._layout = layout
        self._check = check
        self._progress = progress
        self._tree = tree_place(live, rank)
        self._reduction = Reduction(self._tree.children)
        self._declarations = Declarations(live) if self._tree.parent is None else None
        codec = Codec()
        self._epoch = NativeEpoch(codec)
        self._transport: Transport | None = None
        if connect is not None:
            self._transport = connect(self._epoch, codec, self._on_control, self._on_stray, self._on_lost)
            self._epoch.attach(self._transport)
        self._primaries: list[Replica] = []
        self._backups: list[Replica] = []
        self._current: TaskId | None = None
        self._at: Epoch | None = None
        self._composed: Epoch = -1
        self._asked: Epoch = -1
        self._verdict: Verdict | None = None
        self._last = False
        self._status = 0

    def run(self) -> int:
        """Run the job to its end.

        Returns
        -------
        int
            The status of the job.

        Raises
        ------
        EpochAborted
            The job was ended from outside; the sidecar knows why.
        Exception
            Whatever user code raises, as it is.
        """
        self._start()
        epoch = 0
        while not self._run_epoch(epoch).last:
            epoch += 1
        for replica in self._primaries:
            self._current = replica.id
            replica.task.exit()
        self._current = None
        # One more round: nobody leaves while another's `exit` may still fail, or still needs an answer.
        return self._commit(Contribution(epoch + 1, False, True, self._status)).status

    def close(self) -> int:
        """Let go of everything. Returns the number of sends that MPI has not completed."""
        self._epoch.close()
        return self._transport.close() if self._transport is not None else 0

    def where(self) -> tuple[TaskId | None, Epoch | None]:
        """Return the task and the epoch whose user code runs or has just raised."""
        running = self._epoch.running
        return running.task if running is not None else self._current, self._at

    def _start(self) -> None:
        if self._transport is not None:
            for rank in (self._tree.parent, *self._tree.children):
                if rank is not None:
                    self._transport.peer(rank)
        maker = Ends(self._rank, self._layout, self._epoch, self._transport)
        for replicas, tasks, primary in (
            (self._primaries, self._layout.primaries_of(self._rank), True),
            (self._backups, self._layout.backups_of(self._rank), False),
        ):
            for task in tasks:
                self._current = task
                replica = make_replica(self._program, task, primary, self._shutdown, maker)
                replicas.append(replica)
                if self._transport is not None:
                    for array in replica.protected:
                        self._transport.protect(array)

    def _run_epoch(self, epoch: Epoch) -> Verdict:
        self._at = epoch
        idle = self._compose(epoch)
        self._epoch.begin(epoch)
        self._epoch.run()
        if self._transport is not None:
            self._transport.finish_sends()
        decided = self._commit(Contribution(epoch, idle, self._last, self._status))
        for replica in self._primaries:
            self._current = replica.id
            replica.task.committed(epoch)
        self._progress(epoch + 1)
        return decided

    # ---- compose ----

    def _compose(self, epoch: Epoch) -> bool:
        """Let every task compose the epoch; return whether none composed anything."""
        changed: dict[TaskId, TaskGraph] = {}
        idle = True
        for replica in self._primaries:
            context = replica.context
            self._current = replica.id
            context.begin(epoch)
            replica.task.set_epoch(context, epoch)
            if context.finish():
                changed[replica.id] = context.declaration()
            idle = idle and context.is_idle
        self._current = None
        self._composed = epoch
        if changed:
            self._epoch.connect([replica.context.processors for replica in self._primaries])
            self._declare(epoch, changed)
        if self._declarations is not None:
            self._check_whole(epoch, self._declarations.composed(epoch, self._rank))
        if self._asked == epoch:
            self._say_composed(epoch)
        return idle

    def _declare(self, epoch: Epoch, graphs: Mapping[TaskId, TaskGraph]) -> None:
        if self._declarations is not None:
            self._declarations.declared(epoch, graphs)
            self._ask_when_idle()
        else:
            self._send_up(Topic.DECLARED, epoch, pickle.dumps(graphs))

    def _check_whole(self, epoch: Epoch, graph: Mapping[TaskId, TaskGraph] | None) -> None:
        if graph is not None:
            self._check(graph, epoch)

    def _ask_when_idle(self) -> None:
        """At the root: should the epoch come to a halt, find out whether its graph is to blame."""
        if self._transport is not None:
            self._transport.on_idle = lambda: self._ask(self._composed)

    def _ask(self, epoch: Epoch) -> None:
        self._send_down(Topic.ASK, epoch, b"")

    def _say_composed(self, epoch: Epoch) -> None:
        self._send_up(Topic.COMPOSED, epoch, self._rank.to_bytes(4, "little"))

    # ---- commit ----

    def _commit(self, own: Contribution) -> Verdict:
        """Say that this rank has finished an epoch, and wait until all have."""
        self._verdict = None
        whole = self._reduction.own(own)
        if whole is not None:
            self._contribute(whole)
        while self._verdict is None:
            assert self._transport is not None  # alone, a rank's own contribution is the whole
            self._transport.pump()
        return self._verdict

    def _contribute(self, whole: Contribution) -> None:
        if self._declarations is None:
            self._send_up(Topic.CONTRIBUTION, whole.epoch, whole.encode())
            return
        decided = verdict(whole, self._program.config.epochs)
        if whole.idle and not decided.last:
            raise GraphError(
                f"no task composed anything in epoch {whole.epoch}: compose a processor, or call ctx.shutdown()",
                epoch=whole.epoch,
            )
        self._check_whole(whole.epoch, self._declarations.finished(whole.epoch))
        self._decide(decided)

    def _decide(self, decided: Verdict) -> None:
        self._send_down(Topic.VERDICT, decided.epoch, decided.encode())
        self._verdict = decided

    def _shutdown(self, status: int) -> None:
        if isinstance(status, bool) or not isinstance(status, int) or not 0 <= status <= 255:
            raise UsageError(f"shutdown: status={status!r} is no integer from 0 to 255")
        self._last = True
        self._status = max(self._status, status)

    # ---- messages ----

    def _send_up(self, topic: Topic, epoch: Epoch, data: bytes) -> None:
        assert self._transport is not None and self._tree.parent is not None
        self._transport.send_control(self._tree.parent, topic, epoch, data)

    def _send_down(self, topic: Topic, epoch: Epoch, data: bytes) -> None:
        for child in self._tree.children:
            assert self._transport is not None
            self._transport.send_control(child, topic, epoch, data)

    def _on_control(self, source: Rank, topic: int, epoch: Epoch, data: bytes) -> None:
        """Handle a message of the rank above or one below. Runs inside a wait of the transport."""
        if topic == Topic.VERDICT:
            self._decide(Verdict.decode(data))
        elif topic == Topic.CONTRIBUTION:
            whole = self._reduction.child(source, Contribution.decode(data))
            if whole is not None:
                self._contribute(whole)
        elif topic == Topic.ASK:
            self._asked = epoch
            self._ask(epoch)
            if self._composed >= epoch:
                self._say_composed(epoch)
        elif self._declarations is None:
            self._send_up(Topic(topic), epoch, data)
        elif topic == Topic.DECLARED:
            self._declarations.declared(epoch, pickle.loads(data))
            self._ask_when_idle()
        elif topic == Topic.COMPOSED:
            rank = int.from_bytes(data, "little")
            self._check_whole(epoch, self._declarations.composed(epoch, rank))

    def _on_stray(self, source: Rank, generation: Generation) -> None:
        """Note a message of another generation."""

    def _on_lost(self, rank: Rank) -> None:
        """End the job: MPI says that a rank has died."""
        raise PeerLost(rank, "MPI sent to it or received from it")
