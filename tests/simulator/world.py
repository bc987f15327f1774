"""The world: a clock, a heap of events, messages, etcd, and what goes wrong. All randomness comes from the seed."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from taskgraph._native.steady import Steady
from taskgraph.plan import lifecycle, news, records
from taskgraph.plan.decision import Decision, start
from taskgraph.plan.layout import assign
from taskgraph.plan.lifecycle import Unit
from taskgraph.plan.steady_member import SteadyMember
from taskgraph.plan.succession import Succession
from tests.simulator.checkpoints import Checkpoints
from tests.simulator.checks import Checks, Violation
from tests.simulator.etcd import Etcd
from tests.simulator.faults import Faults
from tests.simulator.main_thread import MainThreads
from tests.simulator.parts import Host, Rank, UnitState
from tests.simulator.schedules import Moment, Schedule
from tests.simulator.units import Units

MOST_EVENTS = 60_000
RUN = "ours"


class World:
    """One schedule, played to its end.

    Attributes
    ----------
    error
        What went wrong, or None.
    story
        What happened, if asked for.
    """

    def __init__(self, schedule: Schedule, *, tell: bool = False, most_events: int = MOST_EVENTS) -> None:
        self.schedule = schedule
        self.rng = random.Random(schedule.seed + 1_000_000_007)
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._most_events = most_events
        self._tell = tell
        self.story: list[str] = []
        self.stats: Counter[str] = Counter()
        self.error: str | None = None
        self.fifo: dict[tuple[int, int], float] = defaultdict(float)
        self.hosts = [Host(f"h{number}", number) for number in range(schedule.hosts)]
        self.ranks = [self._make_rank(number) for number in range(schedule.ranks)]
        self.etcd = Etcd(self)
        self.checks = Checks(self)
        self.faults = Faults(self)
        self.checkpoints = Checkpoints(self)
        self.units = Units(self)
        self.main = MainThreads(self)
        self.decoded: dict[tuple[str, bytes], Any] = {}
        self.all_units: list[UnitState] = []

    def _make_rank(self, number: int) -> Rank:
        plan = self.schedule
        host = self.hosts[number // plan.ranks_per_host]
        epochs = None if plan.by_shutdown else plan.epochs
        rank = Rank(number, host, SteadyMember(number, host.name, epochs=epochs, every=plan.every, steady=Steady))
        host.ranks.append(rank)
        return rank

    # ---- time ----

    def after(self, delay: float, what: Callable[..., None], *args: Any) -> None:
        """Let something happen later."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, what, args))

    def delay(self, scale: float = 1.0) -> float:
        """Return how long something takes: mostly short, now and then very long."""
        x = self.rng.random()
        if x < 0.8:
            return scale * (0.1 + x)
        return scale * (3 * x if x < 0.95 else 12 * x)

    def log(self, text: str, *args: Any) -> None:
        """Add a line to the story."""
        if self._tell:
            self.story.append(f"{self.now:9.2f}  {text % args if args else text}")

    # ---- the run ----

    def play(self) -> World:
        """Run the schedule to its end, and judge it."""
        self._begin()
        played = 0
        try:
            while self._heap and played < self._most_events:
                self.now, _, what, args = heapq.heappop(self._heap)
                played += 1
                what(*args)
            self.checks.judge(played >= self._most_events)
        except Violation as violation:
            self.error = str(violation)
            self.log("!! %s", self.error)
        self.stats["events"] = played
        return self

    def _begin(self) -> None:
        plan = self.schedule
        hosts = [rank.host.name for rank in self.ranks]
        layout = assign(plan.tasks, hosts, plan.backups, plan.placement)  # type: ignore[arg-type]
        first = start(dict(enumerate(hosts)), layout, stateless=plan.stateless)
        self.log("layout %s on hosts %s", layout.replicas, {h.name: [r.number for r in h.ranks] for h in self.hosts})
        self.etcd.keys["run"] = RUN.encode()
        self.etcd.keys[records.decision_key(0)] = first.encode()
        for host in self.hosts:
            self.etcd.keys[records.host_key(host.name)] = b""
        for host in self.hosts:
            self.add_unit(host, None)
            for rank in host.ranks:
                rank.unit = self.add_unit(host, rank)
        self.checks.decided(self.decode(records.decision_key(0), first.encode()).decision)  # type: ignore[union-attr]
        self.faults.arm()

    def add_unit(self, host: Host, rank: Rank | None) -> UnitState:
        """Start a unit; it begins by reading everything."""
        plan = self.schedule
        who = Unit(run=RUN, host=host.name, rank=None if rank is None else rank.number)
        succession = Succession(who, backups=plan.backups, placement=plan.placement)  # type: ignore[arg-type]
        unit = UnitState(who, host, rank, succession, lifecycle.begin(who))
        self.all_units.append(unit)
        self.etcd.watch(unit)
        return unit

    def happens(self, moment: Moment, who: Rank | UnitState | None) -> None:
        """Give the schedule a chance to let something go wrong just now."""
        self.faults.happens(moment, who)

    def decode(self, key: str, value: bytes) -> news.News | None:
        """Read a value of etcd; what was read before is remembered, for speed."""
        found = self.decoded.get((key, value))
        if found is None:
            found = self.decoded[key, value] = news.read(key, value)
        return found

    def newest(self) -> Decision:
        """Return the newest decision there is."""
        return self.checks.decisions[max(self.checks.decisions)]
