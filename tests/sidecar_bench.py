"""Sidecars that are turned by hand, on a store in memory and a clock that moves when told to."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from taskgraph.backends.processes import Process
from taskgraph.backends.words import AbortWords
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import Unit
from taskgraph.run.unit.duties import Duty
from taskgraph.run.unit.sidecar import Sidecar
from taskgraph.testing.memory import MemoryCoordinator, MemoryStore

LIMIT_S = 20.0
RUN = "0123456789abcdef"
DONE = Ending(status=0)
BROKEN = Ending(status=1, message="ValueError: no", rank=1, task=4, epoch=2)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Ends:
    """What `on_end` was called with."""

    def __init__(self) -> None:
        self.all: list[Ending] = []
        self.come = threading.Event()

    def __call__(self, ending: Ending) -> None:
        self.all.append(ending)
        self.come.set()


class Bench:
    """A store, a clock that drives it, and sidecars that are turned by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.main = MemoryCoordinator(self.store)
        self.main.claim(RUN)
        self.ends: list[Ends] = []
        self.printed: list[Ending] = []

    def sidecar(
        self,
        rank: int | None = 0,
        *,
        duties: Sequence[Duty] = (),
        words: AbortWords | None = None,
        turned: bool = True,
    ) -> Sidecar:
        """Make one that has heard what there is."""
        self.ends.append(Ends())
        sidecar = Sidecar(
            MemoryCoordinator(self.store, RUN),
            Unit(run=RUN, host="n1", rank=rank),
            on_end=self.ends[-1],
            on_failure=self.printed.append,
            words=words,
            duties=duties,
            clock=self.clock,
        )
        if turned:
            sidecar.turn(0)
        return sidecar

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.store.tick()

    def read(self, key: str) -> bytes | None:
        return self.main.read().get(key)


ME = Process(4711, 99)
