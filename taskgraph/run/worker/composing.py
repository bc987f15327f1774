"""The graph of an epoch, on one rank: composed, connected, declared; and, at the root of the tree, checked as a whole.

Only what changed is declared. The epoch never waits for the check; where a mistake keeps ranks waiting, the root
notices that it waits, in an epoch whose graph changed, and asks who has composed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping

from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph.backends.transport import Transport
from taskgraph.ids import Epoch, Rank, TaskId
from taskgraph.plan.decision import Decision
from taskgraph.plan.declarations import Declarations
from taskgraph.plan.messages import Topic
from taskgraph.plan.routes import tree_place
from taskgraph.program.context import Context
from taskgraph.program.graph import TaskGraph
from taskgraph.run.state.replicas import Replicas
from taskgraph.run.worker.channel_ends import Ways

Check = Callable[[Mapping[TaskId, TaskGraph], Epoch], None]
"""Checks a graph, at once or in another thread."""


class Composing:
    """Composes the epochs of one rank."""

    def __init__(
        self, rank: Rank, replicas: Replicas, epoch: NativeEpoch, transport: Transport | None, check: Check
    ) -> None:
        self._rank = rank
        self._replicas = replicas
        self._epoch = epoch
        self._transport = transport
        self._check = check
        self._composed: Epoch = -1
        self._asked: Epoch = -1

    def adopt(self, decision: Decision) -> None:
        """Enter a generation: every graph is connected and declared anew."""
        place = tree_place(decision.live, self._rank)
        self._parent, self._children = place.parent, place.children
        self._declarations = Declarations(decision.live) if place.parent is None else None
        self._composed = self._asked = -1
        if self._transport is not None:
            self._transport.on_idle = None  # the graph that was to be asked about is of the generation before
            for rank in self._correspondents(decision):
                self._transport.peer(rank)
        self._ways = Ways(self._rank, decision.layout, self._transport)

    def _correspondents(self, decision: Decision) -> set[Rank]:
        """Return the ranks that this one hears from besides the channels: in the tree, and about copies."""
        others = {rank for rank in (self._parent, *self._children) if rank is not None}
        for replicas in decision.layout.replicas:
            if self._rank in replicas:
                others.update(replicas)
        return others - {self._rank}

    def compose(self, epoch: Epoch) -> bool:
        """Let every task compose the epoch, and connect what changed; return whether none composed anything."""
        if self._declarations is not None:
            self.finished(epoch - 1)
        changed: dict[TaskId, TaskGraph] = {}
        contexts: list[Context] = []
        idle = True
        for replica in self._replicas.primaries:
            context = replica.context
            assert context is not None
            contexts.append(context)
            self._epoch.caller = replica.id
            context.begin(epoch)
            replica.task.set_epoch(context, epoch)
            if context.finish():
                changed[replica.id] = context.declaration()
            idle = idle and context.is_idle
        self._epoch.caller = None
        self._composed = epoch
        if changed:
            self._epoch.connect([context.processors for context in contexts], self._ways.to)
            self._declare(epoch, changed)
        if self._declarations is not None and self._declarations.are_unchecked:
            self._check_whole(epoch, self._declarations.composed(epoch, self._rank))
        if self._asked == epoch:
            self._say_composed(epoch)
        return idle

    def receive(self, source: Rank, topic: Topic, epoch: Epoch, data: bytes) -> None:
        """Handle a message about the composition of an epoch, of the rank above or one below."""
        if topic is Topic.ASK:
            self._asked = epoch
            self._ask(epoch)
            if self._composed >= epoch:
                self._say_composed(epoch)
        elif self._declarations is None:
            self._send_up(topic, epoch, data)
        elif topic is Topic.DECLARED:
            self._declarations.declared(epoch, pickle.loads(data))
            self._ask_when_idle()
        else:
            self._check_whole(epoch, self._declarations.composed(epoch, int.from_bytes(data, "little")))

    def finished(self, epoch: Epoch) -> None:
        """Take, at the root, that all ranks have finished an epoch: its graph is known as a whole."""
        # Else it was run in an older generation, or is none: some of the first one may have been declared by now.
        if self._declarations is not None and self._declarations.are_unchecked and epoch == self._composed >= 0:
            self._check_whole(epoch, self._declarations.finished(epoch))

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
            self._transport.on_idle = self._ask_all

    def _ask_all(self) -> None:
        assert self._declarations is not None
        self._check_whole(self._composed, self._declarations.composed(self._composed, self._rank))
        self._ask(self._composed)

    def _ask(self, epoch: Epoch) -> None:
        for child in self._children:
            assert self._transport is not None
            self._transport.send_control(child, Topic.ASK, epoch, b"")

    def _say_composed(self, epoch: Epoch) -> None:
        self._send_up(Topic.COMPOSED, epoch, self._rank.to_bytes(4, "little"))

    def _send_up(self, topic: Topic, epoch: Epoch, data: bytes) -> None:
        assert self._transport is not None and self._parent is not None
        self._transport.send_control(self._parent, topic, epoch, data)
