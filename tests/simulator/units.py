"""The shell of a unit in the world: it hears, asks `taskgraph.plan`, and obeys, each step some time after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from taskgraph.plan import acts, lifecycle
from taskgraph.plan.acts import HostState
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence
from taskgraph.plan.news import News, read_deleted
from taskgraph.plan.records import Write
from tests.simulator.parts import UnitState
from tests.simulator.schedules import Moment

if TYPE_CHECKING:
    from tests.simulator.world import World

MS = 1000.0
"""The world counts in milliseconds."""


class Units:
    """Runs all units."""

    def __init__(self, world: World) -> None:
        self._world = world

    # ---- hearing ----

    def news(self, unit: UnitState, seen: int, batch: list[tuple[str, bytes | None]] | None, everything: Any) -> None:
        """Let a unit hear of a change in etcd, once its thread gets to run."""
        if unit.runs and seen == unit.seen:
            unit.heard.append((batch, everything))
            self.pump(unit)

    def _asleep(self, unit: UnitState) -> float:
        """Return until when the thread cannot run: a process is stopped, or its main thread holds the GIL."""
        rank = unit.rank
        return 0.0 if rank is None else max(rank.stopped_until, rank.gil_until)

    def pump(self, unit: UnitState) -> None:
        """Take in what was heard."""
        world = self._world
        if not unit.runs or not unit.heard:
            return
        wait = self._asleep(unit) - world.now
        if wait > 0:
            world.after(wait + world.delay(), self.pump, unit)  # its connection may have to be made again
            return
        while unit.heard:
            batch, everything = unit.heard.popleft()
            if everything is not None:
                self._take_life(unit, everything)
                self.obey(unit, unit.succession.resync(self._read(everything.items())))
            else:
                self._take_life(unit, dict(batch), partial=True)
                self.obey(unit, unit.succession.hear(self._read(batch)))

    def _read(self, batch: Iterable[tuple[str, bytes | None]]) -> list[News]:
        read = [read_deleted(key) if value is None else self._world.decode(key, value) for key, value in batch]
        return [item for item in read if item is not None]

    def _take_life(self, unit: UnitState, entries: dict[str, bytes | None], *, partial: bool = False) -> None:
        events: list[lifecycle.Event] = []
        if not partial or "run" in entries:
            found = entries.get("run")
            events.append(lifecycle.RunIsAbsent() if found is None else lifecycle.RunIsOurs())
        if entries.get("status") is not None:
            events.append(lifecycle.StatusSeen(Ending.decode(entries["status"])))  # type: ignore[arg-type]
        for event in events:
            unit.state, orders = lifecycle.step(unit.state, event)
            if lifecycle.Do.DELIVER in orders:
                self._deliver(unit, event.ending)  # type: ignore[union-attr]
            if (
                lifecycle.Do.LOSE_ETCD in orders
            ):  # it ends a job with its next failure; in this world that comes at once
                self._deliver(unit, Ending(status=1, message="etcd is wiped, and there was a failure"))

    def _deliver(self, unit: UnitState, ending: Ending) -> None:
        if unit.rank is not None:
            self._world.main.ended(unit.rank, ending)

    # ---- obeying ----

    def obey(self, unit: UnitState, ordered: Iterable[acts.Act]) -> None:
        """Carry out what the unit's machine says, in order, each act some time after the last."""
        unit.acts.extend(ordered)
        self._next(unit)

    def _next(self, unit: UnitState) -> None:
        if unit.acts and not unit.acting:
            unit.acting = True
            self._world.after(self._world.delay(0.05), self._act, unit)

    def _act(self, unit: UnitState) -> None:
        world = self._world
        if not unit.runs:
            return
        wait = self._asleep(unit) - world.now
        if wait > 0:
            world.after(wait + 1e-6, self._act, unit)
            return
        unit.acting = False
        _DO[type(unit.acts[0])](self, unit, unit.acts.popleft())
        self._next(unit)

    def _freeze(self, unit: UnitState, act: acts.Freeze) -> None:
        self._raise_floor(unit, act)
        self._world.happens(Moment.PUBLISH, unit)
        self._world.after(self._world.delay(0.05), self._frozen, unit, act.generation)

    def _frozen(self, unit: UnitState, generation: int) -> None:
        if unit.runs:
            host = unit.host
            state = HostState(tuple(slot.stamp for slot in host.whole()), host.known, host.over)
            self.obey(unit, unit.succession.frozen(generation, state))

    def _raise_floor(self, unit: UnitState, act: acts.RaiseFloor | acts.Freeze) -> None:
        unit.host.floor = max(unit.host.floor, act.generation)

    def _abort(self, unit: UnitState, act: acts.Abort) -> None:
        for rank in unit.host.ranks:
            if rank.runs and rank.abort < act.generation:
                rank.abort = act.generation
                self._world.after(self._world.delay(0.1), self._world.main.poll, rank)

    def _transact(self, unit: UnitState, act: acts.Transact) -> None:
        self.transact(unit, act.write)

    def transact(self, unit: UnitState, write: Write) -> None:
        """Have a transaction done, and its answer given to the machine."""
        if any(key.endswith("/decision") for key in write.entries):
            self._world.happens(Moment.DECIDE, unit)

        def answer(done: bool) -> None:
            if unit.runs:
                self.obey(unit, unit.succession.answered(write, done))

        self._world.etcd.transact(unit, write, answer)

    def _wait(self, unit: UnitState, act: acts.Wait) -> None:
        self._world.after(act.delay_s * MS, self._turn, unit, act.turn)

    def _turn(self, unit: UnitState, turn: acts.Turn) -> None:
        if not unit.runs:
            return
        wait = self._asleep(unit) - self._world.now
        if wait > 0:
            self._world.after(wait + 1e-6, self._turn, unit, turn)
        else:
            self.obey(unit, unit.succession.turn_came(turn))

    def _adopt(self, unit: UnitState, act: acts.Adopt) -> None:
        if unit.rank is not None:
            unit.rank.offered = (act.decision, unit.succession.history)
            self._world.after(self._world.delay(0.1), self._world.main.poll, unit.rank)

    def _leave_dead(self, unit: UnitState, act: acts.LeaveDead) -> None:
        if unit.rank is not None and unit.rank.left is None:
            self._world.log("rank %d learns that it counts as dead, and leaves", unit.rank.number)
            unit.rank.left = 1

    # ---- evidence ----

    def accuse(self, unit: UnitState, ranks: Iterable[int], evidence: Evidence) -> None:
        """Let a unit find out that ranks are dead."""
        if unit.runs:
            wait = self._asleep(unit) - self._world.now
            if wait > 0:
                self._world.after(wait + 1e-6, self.accuse, unit, tuple(ranks), evidence)
            else:
                self.obey(unit, unit.succession.accuse(ranks, evidence))


_DO: dict[type, Any] = {
    acts.Freeze: Units._freeze,
    acts.RaiseFloor: Units._raise_floor,
    acts.Abort: Units._abort,
    acts.Transact: Units._transact,
    acts.Wait: Units._wait,
    acts.Adopt: Units._adopt,
    acts.LeaveDead: Units._leave_dead,
}
