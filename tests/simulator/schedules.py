"""What one simulated job is like, and what befalls it: a plain value, made from a seed, that a story can be told of."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from enum import Enum


class Kind(Enum):
    """What can go wrong."""

    KILL_RANK = "rank dies"
    KILL_HOST = "host dies"
    KILL_PRIMARY = "host of the primary of a task dies"
    KILL_TASK = "all hosts of the replicas of a task die"
    KILL_KEEPER = "keeper dies"
    SUSPECT = "rank is falsely declared dead"
    STOP = "rank is stopped and goes on later"
    CUT = "host is cut off from etcd"
    OUTAGE = "etcd is down"
    WIPE = "etcd loses everything"
    COMPACT = "watches miss events and read everything again"
    RAISE = "user code raises"


class Moment(Enum):
    """When: at a time, or when something happens for the n-th time."""

    TIME = "time"
    PUBLISH = "publish"
    DECIDE = "decide"
    DECIDED = "decided"
    ADOPT = "adopt"
    RESTORED = "restored"
    SNAPSHOT = "snapshot"
    COPY = "copy"
    REFILLED = "refilled"
    COMMIT = "commit"
    SAFE = "newly safe boundary"
    LAST = "last"
    OVER = "over"
    CONCLUDE = "conclude"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes
    ----------
    at
        The time, or which occurrence of `moment`.
    target
        Index of a rank or host; -1: whoever is at the moment.
    lasts
        How long, where that means anything.
    """

    kind: Kind
    moment: Moment
    at: float
    target: int = -1
    lasts: float = 0.0

    def __str__(self) -> str:
        when = f"at {self.at:.1f}" if self.moment is Moment.TIME else f"at {self.moment.value} number {self.at:.0f}"
        whom = "whoever is there" if self.target < 0 else f"number {self.target}"
        lasts = f", for {self.lasts:.0f}" if self.lasts else ""
        return f"{when}: {self.kind.value} ({whom}{lasts})"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One job in one world."""

    seed: int
    hosts: int
    ranks_per_host: int
    tasks: int
    backups: int
    placement: str
    epochs: int
    by_shutdown: bool
    every: int
    nondeterministic: bool
    holds_gil: bool
    slow: bool
    late: float
    link: float
    tag_bits: int
    stateless: frozenset[int] = frozenset()
    mismatch_at: int = -1
    checkpoint_every: int = 0
    faults: tuple[Fault, ...] = field(default=())

    @property
    def ranks(self) -> int:
        """All ranks."""
        return self.hosts * self.ranks_per_host

    def without(self, fault: Fault) -> Schedule:
        """Return the same with one fault less."""
        return replace(self, faults=tuple(other for other in self.faults if other is not fault))

    def describe(self) -> str:
        """Say it in a few lines."""
        head = (
            f"seed {self.seed}: {self.tasks} tasks on {self.hosts} hosts of {self.ranks_per_host} ranks, "
            f"backups={self.backups}, placement={self.placement}, {self.epochs} epochs"
            f"{' by shutdown' if self.by_shutdown else ''}, protect_every={self.every}"
            f"{', not deterministic' if self.nondeterministic else ''}{', holding the GIL' if self.holds_gil else ''}"
            f"{f', checkpoint_every={self.checkpoint_every}' if self.checkpoint_every else ''}"
            f"{f', a graph that does not fit from epoch {self.mismatch_at}' if self.mismatch_at >= 0 else ''}"
        )
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)])


ON_HOSTS = (Kind.KILL_HOST, Kind.CUT, Kind.KILL_KEEPER)
_MOMENTS = [moment for moment in Moment if moment is not Moment.TIME]


def schedule(seed: int) -> Schedule:
    """Make the schedule of a seed."""
    rng = random.Random(seed)
    hosts = rng.randint(2, 5)
    epochs = rng.randint(3, 8)
    plan = Schedule(
        seed=seed,
        hosts=hosts,
        ranks_per_host=rng.choice([1, 1, 2, 2, 3]),
        tasks=rng.randint(2, 5),
        backups=min(rng.choice([0, 1, 1, 1, 1, 2]), hosts - 1),
        placement=rng.choice(["buddy", "buddy", "dedicated"]),
        epochs=epochs,
        by_shutdown=rng.random() < 0.4,
        every=rng.choice([1, 1, 1, 2, 3]),
        nondeterministic=rng.random() < 0.4,
        holds_gil=rng.random() < 0.3,
        slow=rng.random() < 0.4,
        late=0.05,
        link=rng.choice([1, 1, 3]),
        tag_bits=rng.choice([1, 2, 14]),
    )
    if rng.random() < 0.1:
        plan = replace(plan, stateless=frozenset(rng.sample(range(plan.tasks), rng.randint(1, plan.tasks))))
    if random.Random(~seed).random() < 0.25:
        plan = replace(plan, checkpoint_every=plan.every * rng.choice([1, 1, 2]))
    if rng.random() < 0.01:
        plan = replace(plan, mismatch_at=rng.randrange(epochs))
    faults = [_timed(rng, plan) for _ in range(rng.choice([0, 1, 1, 1, 2]))]
    faults += [_at_moment(rng, plan) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
    if rng.random() < 0.15:
        faults += _theme(rng, plan)
    elif rng.random() < 0.03:
        return _borrowing(rng, plan)
    elif rng.random() < 0.03:
        return _refilling(rng, plan)
    elif rng.random() < 0.03:
        return _concluding(rng, plan)
    return replace(plan, faults=tuple(faults))


def _borrowing(rng: random.Random, plan: Schedule) -> Schedule:
    """Return one where a value that is long under way is borrowed from memory that is restored meanwhile."""
    plan = replace(plan, hosts=4, ranks_per_host=1, tasks=4, backups=1, every=1, epochs=8, late=0.4, link=2)
    cut = Fault(Kind.CUT, Moment.COMMIT, rng.randint(4, 24), -1, rng.uniform(34.0, 60.0))
    return replace(plan, stateless=frozenset(), faults=(cut,))


def _theme(rng: random.Random, plan: Schedule) -> list[Fault]:
    """Return faults that are rarely together by chance: first a loss, then one that hits what the first laid bare."""
    first = Fault(Kind.KILL_RANK, Moment.TIME, rng.random() * plan.epochs * 3, rng.randrange(plan.ranks))
    task = rng.randrange(plan.tasks)
    match rng.randrange(3):
        case 0:
            return [first, Fault(Kind.KILL_TASK, Moment.SAFE, rng.randint(2, plan.epochs + 1), task)]
        case 1:
            at = rng.randint(1, 6)
            return [
                replace(first, kind=Kind.KILL_HOST, target=first.target % plan.hosts),
                Fault(Kind.KILL_HOST, Moment.REFILLED, at),
                Fault(Kind.KILL_PRIMARY, Moment.REFILLED, at, task),
            ]
        case _:
            return [
                Fault(Kind.KILL_RANK, Moment.OVER, rng.randint(1, 3), rng.randrange(plan.ranks)),
                Fault(Kind.CUT, Moment.PUBLISH, rng.randint(1, 3), -1, rng.uniform(32.0, 60.0)),
            ]


def _refilling(rng: random.Random, plan: Schedule) -> Schedule:
    """Return one where a task is left to a new holder, and another to an old one that lacks the newest snapshot."""
    plan = replace(plan, hosts=5, ranks_per_host=1, tasks=2, backups=1, every=1, epochs=8, late=0.0)
    plan = replace(plan, placement="buddy", stateless=frozenset())
    at, task = rng.randint(1, 6), rng.randrange(2)
    backup = plan.hosts * task // 2 + 1
    faults = (
        Fault(Kind.KILL_HOST, Moment.SNAPSHOT, rng.randint(3, 12), backup),
        Fault(Kind.KILL_HOST, Moment.REFILLED, at),
        Fault(Kind.KILL_PRIMARY, Moment.REFILLED, at, 1 - task),
    )
    return replace(plan, faults=faults)


def _concluding(rng: random.Random, plan: Schedule) -> Schedule:
    """Return one where the root, cut off, learns that the job is over while others begin a generation without it."""
    plan = replace(plan, hosts=3, ranks_per_host=1, backups=2, placement="buddy", every=1, stateless=frozenset())
    faults = (
        Fault(Kind.KILL_RANK, Moment.OVER, 1, rng.randint(1, 2)),
        Fault(Kind.CUT, rng.choice([Moment.LAST, Moment.OVER, Moment.PUBLISH]), 1, 0, rng.uniform(40.0, 75.0)),
    )
    return replace(plan, faults=faults)


def _timed(rng: random.Random, plan: Schedule) -> Fault:
    return _fault(rng, plan, Moment.TIME, rng.random() * plan.epochs * 5 * plan.link, targeted=True)


def _at_moment(rng: random.Random, plan: Schedule) -> Fault:
    moment = rng.choice(_MOMENTS)
    many = moment in (Moment.SNAPSHOT, Moment.COPY, Moment.COMMIT)
    return _fault(rng, plan, moment, rng.randint(1, 20 if many else 4), targeted=rng.random() < 0.5)


def _fault(rng: random.Random, plan: Schedule, moment: Moment, at: float, *, targeted: bool) -> Fault:
    kinds = [Kind.KILL_RANK] * 30 + [Kind.KILL_HOST] * 26 + [Kind.SUSPECT] * 10 + [Kind.STOP] * 8 + [Kind.CUT] * 12
    kinds += [Kind.OUTAGE] * 5 + [Kind.KILL_KEEPER] * 4 + [Kind.COMPACT] * 3 + [Kind.WIPE, Kind.RAISE]
    kind = rng.choice(kinds)
    on_hosts = kind in ON_HOSTS
    target = rng.randrange(plan.hosts if on_hosts else plan.ranks) if targeted else -1
    lasts = {
        Kind.STOP: rng.choice([5.0, 20.0, 60.0]),
        Kind.CUT: rng.choice([8.0, 40.0, 100.0, 1e7]),
        Kind.OUTAGE: rng.choice([5.0, 30.0, 100.0]),
    }.get(kind, 0.0)
    return Fault(kind, moment, at, target, lasts)


def large(ranks: int) -> Schedule:
    """Make a job of many ranks that loses a host, a rank and, while it recovers, another host."""
    hosts = max(4, ranks // 64)
    return Schedule(
        seed=1,
        hosts=hosts,
        ranks_per_host=ranks // hosts,
        tasks=ranks // hosts * hosts,
        backups=1,
        placement="buddy",
        epochs=4,
        by_shutdown=False,
        every=1,
        nondeterministic=False,
        holds_gil=False,
        slow=False,
        late=0.0,
        link=1,
        tag_bits=14,
        faults=(
            Fault(Kind.KILL_HOST, Moment.TIME, 20.0, hosts // 2),
            Fault(Kind.KILL_RANK, Moment.TIME, 22.0, 1),
            Fault(Kind.KILL_HOST, Moment.DECIDED, 1, hosts // 3),
        ),
    )
