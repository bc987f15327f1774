"""Graphs that do not fit together, in the world: the code that composes on a rank, among stand-ins for what it needs.

From one epoch on, task 1 waits for a value that nobody sends. The job must end and say so, whatever else happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taskgraph.errors import GraphError
from taskgraph.ids import ChannelId
from taskgraph.plan import records
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.messages import Topic
from taskgraph.program.graph import Ends, TaskGraph, check
from taskgraph.run.worker.composing import Composing
from tests.simulator.parts import Rank

if TYPE_CHECKING:
    from tests.simulator.world import World

IDLE = 20.0
"""After so long the root asks why it waits."""


class Graphs:
    """The composing of one rank."""

    def __init__(self, world: World, rank: Rank) -> None:
        self._world = world
        self._rank = rank
        self._epoch = -1
        self._declared: dict[int, TaskGraph] = {}
        self.current: int | None = None
        self._wake: Any = None
        self._composing = Composing(rank.number, self, self, self, self._check)  # type: ignore[arg-type]

    def adopt(self, decision: Decision) -> None:
        """Enter a generation."""
        self._declared.clear()
        self._composing.adopt(decision)

    def compose(self, epoch: int) -> None:
        """Compose an epoch."""
        self._epoch = epoch
        self._composing.compose(epoch)

    def receive(self, source: int, body: tuple[Topic, int, bytes]) -> None:
        """Take a message about composing."""
        self._composing.receive(source, *body)

    # ---- what the code that composes sees: the replicas, ... ----

    @property
    def primaries(self) -> list[_Replica]:
        decision = self._rank.member.decision
        assert decision is not None
        return [_Replica(self, task) for task in decision.layout.primaries_of(self._rank.number)]

    def graph(self, task: int) -> TaskGraph:
        """Return what a task composes now: it sends to its neighbors, and then computes with what they sent."""
        others = self._world.main.neighbors(task)
        ins = [ChannelId(other, task, "state") for other in others]
        if task == 1 and self._epoch >= self._world.schedule.mismatch_at:
            ins.append(ChannelId(0, 1, "never"))
        return (Ends((), tuple(ChannelId(task, other, "state") for other in others)), Ends(tuple(ins), ()))

    def changed(self, task: int) -> bool:
        graph = self.graph(task)
        before = self._declared.get(task)
        self._declared[task] = graph
        return graph != before

    # ---- ... the epoch and the transport ----

    def connect(self, tasks: object, way: object) -> None:
        pass

    def peer(self, rank: int) -> None:
        pass

    def send_control(self, peer: int, topic: Topic, epoch: int, data: bytes) -> None:
        self._world.main.send(self._rank, peer, "compose", (topic, epoch, data))

    @property
    def on_idle(self) -> Any:
        return self._wake

    @on_idle.setter
    def on_idle(self, wake: Any) -> None:
        self._wake = wake
        if wake is not None:
            self._world.after(IDLE, self._idle, wake, self._rank.run)

    def _idle(self, wake: Any, run: int) -> None:
        if self._wake is wake and self._rank.runs and self._rank.run == run:
            if self._rank.busy:
                self._world.after(IDLE, self._idle, wake, run)
            else:
                wake()

    def _check(self, graphs: Mapping[int, TaskGraph], epoch: int) -> None:
        try:
            check(graphs, epoch)
        except GraphError as error:
            self._world.log("rank %d finds a mistake: %s", self._rank.number, error)
            assert self._rank.unit is not None
            ending = Ending(status=1, message=f"mismatch: {error}")
            write = records.fail(self._rank.number, self._rank.member.generation, ending)
            self._world.units.transact(self._rank.unit, write)


class _Replica:
    """One task, and its context at once."""

    def __init__(self, graphs: Graphs, task: int) -> None:
        self._graphs = graphs
        self.id = task
        self.task = self.context = self
        self.is_idle = False
        self.processors = ()

    def begin(self, epoch: int) -> None:
        pass

    def set_epoch(self, context: object, epoch: int) -> None:
        pass

    def finish(self) -> bool:
        return self._graphs.changed(self.id)

    def declaration(self) -> TaskGraph:
        return self._graphs.graph(self.id)
