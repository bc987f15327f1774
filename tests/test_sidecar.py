"""One unit: what it writes, what it hears, and that nothing it meets is silent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskgraph.backends.coordinator import Coordinator, Reachable, Unreachable
from taskgraph.backends.processes import Process
from taskgraph.backends.words import OVER, AbortWords
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, GraphError
from taskgraph.ids import ChannelId
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import Unit
from taskgraph.run.duties import HostLease, Progress, Registration
from taskgraph.run.sidecar import Sidecar
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


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def connect(store: MemoryStore) -> Callable[..., MemoryCoordinator]:
    """Open a connection of its own to the one store; the run is claimed already unless said otherwise."""

    def connect(run: str | None = RUN) -> MemoryCoordinator:
        return MemoryCoordinator(store, run)

    MemoryCoordinator(store).claim(RUN)
    return connect
