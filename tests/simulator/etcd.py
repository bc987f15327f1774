"""etcd as units see it: transactions that take time, watches that are late but in order, outages, wipes, compaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from taskgraph.plan import records
from taskgraph.plan.records import Write
from tests.simulator.parts import UnitState
from tests.simulator.schedules import Moment

if TYPE_CHECKING:
    from tests.simulator.world import World

FOR_EVER = 1e7

Batch = list[tuple[str, bytes | None]]


class Etcd:
    """One store with its watchers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.keys: dict[str, bytes] = {}
        self.down_until = 0.0
        self._watchers: list[UnitState] = []

    def watch(self, unit: UnitState) -> None:
        """Give a unit everything there is, and from then on what changes."""
        self._watchers.append(unit)
        self._tell(unit, None, dict(self.keys))

    def compact(self) -> None:
        """Make every watch miss what is under way, and read everything again."""
        for unit in self._watchers:
            if unit.runs:
                unit.seen += 1  # what was sent before is never delivered
                self._tell(unit, None, dict(self.keys))

    def wipe(self) -> None:
        """Lose everything."""
        gone: Batch = [(key, None) for key in self.keys]
        self.keys.clear()
        self._emit(gone)

    def transact(self, unit: UnitState, write: Write, answer: Callable[[bool], None]) -> None:
        """Carry a transaction of a unit out, some time."""
        self._world.after(self._world.delay(0.5), self._arrive, unit, write, answer)

    def _arrive(self, unit: UnitState, write: Write, answer: Callable[[bool], None]) -> None:
        world = self._world
        blocked = max(self.down_until, unit.host.cut_until)
        if blocked >= FOR_EVER:
            return
        if world.now < blocked:
            world.after(blocked - world.now + world.delay(), self._arrive, unit, write, answer)
            return
        if not unit.runs and world.rng.random() < 0.5:
            return
        done = self.apply(write)
        if world.rng.random() < 0.03:  # the answer is lost: the unit tries again what was done already
            world.after(world.delay(3), self._arrive, unit, write, answer)
            return
        world.after(world.delay(0.3), answer, done)

    def apply(self, write: Write) -> bool:
        """Do a transaction now, if its conditions hold."""
        found = self.keys.get("run")
        world = self._world
        if not records.belongs(None if found is None else found.decode(), "ours"):
            return False
        if any(key in self.keys for key in write.absent):
            return False
        world.checks.written(write)
        self.keys.update(write.entries)
        self._emit(list(write.entries.items()))
        for key in write.entries:
            if key.endswith("/decision"):
                world.happens(Moment.DECIDED, None)
            elif key == records.STATUS:
                world.happens(Moment.STATUS, None)
        return True

    def expire(self, host: str) -> None:
        """End the lease of a host."""
        if self.keys.pop(records.host_key(host), None) is not None:
            self._emit([(records.host_key(host), None)])

    def renew(self, host: str) -> None:
        """Put the key of a host back, under a new lease."""
        if "run" in self.keys:
            self.keys[records.host_key(host)] = b""
            self._emit([(records.host_key(host), b"")])

    def _emit(self, batch: Batch) -> None:
        for unit in self._watchers:
            if unit.runs:
                self._tell(unit, batch, None)

    def _tell(self, unit: UnitState, batch: Batch | None, everything: dict[str, bytes] | None) -> None:
        world = self._world
        at = max(unit.watch_at + 1e-6, world.now + world.delay(0.7), self.down_until, unit.host.cut_until)
        unit.watch_at = at
        if at >= FOR_EVER:
            return
        world.after(at - world.now, world.units.news, unit, unit.seen, batch, everything)
