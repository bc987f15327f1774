"""What the world is made of: plain records that change."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from taskgraph.plan import lifecycle
from taskgraph.plan.acts import Over
from taskgraph.plan.holdings import NOTHING_KNOWN, Held, Known
from taskgraph.plan.lifecycle import Unit
from taskgraph.plan.member import Member
from taskgraph.plan.succession import Succession


@dataclass(slots=True, eq=False)
class Slot:
    """A snapshot in a host's shared memory."""

    stamp: Held
    value: int
    delivered: int
    whole: bool = False


@dataclass(slots=True, eq=False)
class Host:
    """A machine: shared memory, ranks, a keeper, a lease."""

    name: str
    number: int
    up: bool = True
    floor: int = -1
    slots: dict[tuple[int, int, int], Slot] = field(default_factory=dict)
    known: Known = NOTHING_KNOWN
    over: Over | None = None
    ranks: list[Rank] = field(default_factory=list)
    cut_until: float = 0.0
    leased: bool = True
    changed: bool = False
    freed_below: int = -1
    held_back: int = -1

    def whole(self) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.whole]


@dataclass(slots=True, eq=False)
class Rank:
    """A process: its main thread, as far as the world has to know."""

    number: int
    host: Host
    member: Member
    up: bool = True
    left: int | None = None
    busy: bool = False
    stopped_until: float = 0.0
    gil_until: float = 0.0
    abort: int = -1
    offered: Any = None
    run: int = 0
    orders: deque[Any] = field(default_factory=deque)
    inbox: deque[Any] = field(default_factory=deque)
    stash: list[Any] = field(default_factory=list)
    epoch: int = -1
    sent: bool = False
    values: dict[tuple[int, int, int], Any] = field(default_factory=dict)
    state: dict[int, int] = field(default_factory=dict)
    exits: set[int] = field(default_factory=set)
    unit: UnitState | None = None
    failing: bool = False
    graphs: Any = None
    unusable: Held | None = None

    @property
    def runs(self) -> bool:
        """Whether it does anything."""
        return self.up and self.left is None and self.host.up


@dataclass(slots=True, eq=False)
class UnitState:
    """A sidecar thread or a keeper."""

    who: Unit
    host: Host
    rank: Rank | None
    succession: Succession
    state: lifecycle.State
    up: bool = True
    watch_at: float = 0.0
    acts: deque[Any] = field(default_factory=deque)
    acting: bool = False
    heard: deque[Any] = field(default_factory=deque)
    seen: int = 0
    skip_until: float = 0.0

    @property
    def runs(self) -> bool:
        """Whether it does anything."""
        return self.up and self.host.up and (self.rank is None or self.rank.runs)
