"""From a tombstone to the next generation: what a unit does, whichever it is.

A unit is the sidecar thread of a rank or the keeper of a host. Whatever it does here is idempotent or creates a key
that must be absent, so any unit may do it, and the first wins.

Rule 1: a tombstone of a rank that the newest decision lists, and nothing else, starts the next generation. Rule 2:
first the floor of the host rises, then what is whole is read and published; nothing that a rank of the old generation
does afterwards counts. Rule 3: publishing never waits for user code. Rule 4: any unit may decide once every live host
has published; the first in the row at once, the others later and later. Rule 5: where the job is known to be over, a
tombstone is answered with the status, not with holdings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from taskgraph.config import Placement
from taskgraph.ids import Generation, Host, Rank
from taskgraph.plan import news, records
from taskgraph.plan.accusations import Accusations
from taskgraph.plan.acts import (
    Abort,
    Act,
    Acts,
    Adopt,
    Freeze,
    HostState,
    LeaveDead,
    Over,
    RaiseFloor,
    Transact,
    Turn,
    Wait,
    What,
)
from taskgraph.plan.decide import decide
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Tombstone, Work
from taskgraph.plan.holdings import Holdings
from taskgraph.plan.lifecycle import Unit
from taskgraph.plan.manifest import Name
from taskgraph.plan.poison import poisoned
from taskgraph.plan.records import Write

TURN_S = 0.05
"""How much longer each unit in a row waits for what one of them has to do, in seconds."""


class Succession:
    """What one unit knows of generations, and what follows from it.

    Parameters
    ----------
    unit
        Who this is.
    backups, placement
        What the job was configured with.
    """

    def __init__(self, unit: Unit, *, backups: int, placement: Placement) -> None:
        self._unit = unit
        self._backups = backups
        self._placement = placement
        self._decisions: dict[Generation, Decision] = {}
        self._newest: Decision | None = None
        self._dead: dict[Rank, Tombstone] = {}
        self._holdings: dict[Generation, dict[Host, Holdings]] = {}
        self._silent: set[Host] = set()
        self._accusations = Accusations(str(unit))
        self._living: Counter[Host] = Counter()
        self._missing: set[Rank] = set()
        self._frozen: Generation = -1
        self._asked_turn: Generation = -1
        self._left = False
        self._checkpoint: Name | None = None
        self.over = False

    # ---- what others ask ----

    @property
    def newest(self) -> Decision | None:
        """The newest decision that was heard of."""
        return self._newest

    @property
    def history(self) -> dict[Generation, int]:
        """The resume boundaries of all generations."""
        history: dict[Generation, int] = {}
        for decision in self._decisions.values():
            history.update(decision.history)
        return history

    @property
    def tombstones(self) -> dict[Rank, Tombstone]:
        """Every tombstone that was heard of."""
        return dict(self._dead)

    @property
    def failure_known(self) -> bool:
        """Whether a rank is dead that the newest generation lists, or has to be said to be (for `outage.gives_up`)."""
        return bool(self._missing) or self._accusations.are_pending

    def must_write(self, generation: Generation) -> bool:
        """Tell, at `Conclude`, whether the status must be in etcd before anyone leaves.

        Ranks outside the generation, and units that have seen a tombstone, hear of the end only there. It may be asked
        in another thread than the unit's: nothing is gone through.
        """
        return generation > 0 or bool(self._dead) or self._accusations.are_pending

    # ---- news from etcd ----

    def hear(self, changes: Iterable[news.News]) -> Acts:
        """Take in what changed in etcd, in order."""
        acts: list[Act] = []
        for item in changes:
            match item:
                case news.RankDead(rank, tombstone):
                    self._bury(rank, tombstone)
                case news.Published(generation, holdings):
                    self._holdings.setdefault(generation, {})[holdings.host] = holdings
                case news.Decided(decision):
                    self._decided(decision, acts)
                case news.HostSilent(host):
                    self._silent.add(host)
                    self._accuse_silent(host, acts)
                case news.HostKnown(host):
                    self._silent.discard(host)
                case news.CheckpointComplete(name):
                    self._checkpoint = name
                case news.Ended():
                    self.over = True
        self._go_on(acts)
        return tuple(acts)

    def resync(self, everything: Iterable[news.News]) -> Acts:
        """Take in everything that etcd holds: at the start, and where events may have been missed."""
        found = sorted(everything, key=lambda item: not isinstance(item, news.Decided))
        acts = list(self.hear(found))
        known = {item.host for item in found if isinstance(item, news.HostKnown)}
        acts += self.hear([news.HostSilent(host) for host in self._living if host not in known])
        return tuple(acts)

    def _decided(self, decision: Decision, acts: list[Act]) -> None:
        self._decisions[decision.generation] = decision
        if self._newest is not None and decision.generation <= self._newest.generation:
            return
        self._newest = decision
        self._missing = {rank for rank in self._dead if rank in decision.host_of}
        self._living = Counter({host: len(ranks) for host, ranks in decision.ranks_of.items()})
        self._living.subtract(decision.host_of[rank] for rank in self._missing)
        self._living = +self._living
        self._frozen = max(self._frozen, decision.generation)
        acts.append(RaiseFloor(decision.generation))
        if self._unit.rank is None or self._unit.rank in decision.host_of:
            acts.append(Adopt(decision))
        for host in self._silent:
            self._accuse_silent(host, acts)

    def _bury(self, rank: Rank, tombstone: Tombstone) -> None:
        if rank in self._dead:
            return
        self._dead[rank] = tombstone
        if self._newest is not None and rank in self._newest.host_of:
            self._missing.add(rank)
            host = self._newest.host_of[rank]
            self._living[host] -= 1
            if not self._living[host]:
                del self._living[host]

    # ---- evidence ----

    def accuse(
        self,
        ranks: Iterable[Rank],
        evidence: Evidence,
        detail: str = "",
        at: float = 0.0,
        working: Work | None = None,
    ) -> Acts:
        """Report ranks as dead. MPI knows no cause: who sees their processes has a moment to say one."""
        if evidence is Evidence.PEER:
            held = self._accusations.hold(ranks, self._dead, at)
            return tuple(Wait(TURN_S, Turn(What.REPORT, 0, rank=rank)) for rank in held)
        writes = [] if self.over else self._accusations.add(ranks, self._dead, evidence, detail, at, working=working)
        return tuple(Transact(write) for write in writes)

    def _accuse_silent(self, host: Host, acts: list[Act]) -> None:
        if self._newest is not None and self._living[host] and self._unit.host in self._living:
            self._take_turn(Turn(What.ACCUSE, self._newest.generation, host), self._place(), acts)

    def answered(self, write: Write, done: bool) -> Acts:
        """Take whether a transaction was done; what it wrote is heard of as news."""
        acts: list[Act] = []
        if not done:
            self._accusations.refused(write)
        self._go_on(acts)
        return tuple(acts)

    # ---- the next generation ----

    def _go_on(self, acts: list[Act]) -> None:
        if self._accusations.are_pending:
            acts += [Transact(write) for write in self._accusations.left(self._dead, self._silent)]
        if self.over or self._left or self._newest is None:
            return
        if self._missing:
            self._freeze(self._newest.generation + 1, acts)
        own = self._unit.rank
        if own is not None and own in self._dead:
            self._left = True
            acts.append(LeaveDead(self._dead[own]))
        elif self._missing and self._unit.host in self._living:
            self._ask_turn(self._newest.generation + 1, acts)

    def _freeze(self, generation: Generation, acts: list[Act]) -> None:
        if self._frozen < generation:
            self._frozen = generation
            acts.append(RaiseFloor(generation))
            acts.append(Abort(generation))
            if self._unit.host in self._living:  # else nobody counts on it, but its ranks must stop all the same
                self._take_turn(Turn(What.PUBLISH, generation), self._place_on_host(), acts)

    def frozen(self, generation: Generation, state: HostState) -> Acts:
        """Publish what the host held when its floor had been raised to `generation`."""
        if self.over or self._newest is None or generation <= self._newest.generation:
            return ()
        over = state.over
        if over is not None and answers_with_status(over, self._newest.generation):
            return (Transact(records.conclude(over.generation, Ending(status=over.status))),)
        holdings = Holdings(self._unit.host, state.slots, state.known)
        return (Transact(records.publish(generation, holdings)),)

    def _ask_turn(self, generation: Generation, acts: list[Act]) -> None:
        if self._asked_turn < generation and self._all_published(generation):
            self._asked_turn = generation
            self._take_turn(Turn(What.DECIDE, generation), self._place(), acts)

    def _all_published(self, generation: Generation) -> bool:
        published = self._holdings.get(generation, {})
        return len(published) >= len(self._living) and self._living.keys() <= published.keys()

    # ---- turns ----

    def _place(self) -> int:
        """Return this unit's place in the row of all: by host, and on a host as `_place_on_host`."""
        assert self._newest is not None
        hosts = [host for host in self._newest.ranks_of if host in self._living]
        return hosts.index(self._unit.host) + self._place_on_host()

    def _place_on_host(self) -> int:
        """Return the place in the row of the host: the keeper and the first rank begin."""
        assert self._newest is not None
        if self._unit.rank is None:
            return 0
        mates = self._newest.ranks_of[self._unit.host]
        return sum(rank < self._unit.rank for rank in mates if rank not in self._dead)

    def _take_turn(self, turn: Turn, place: int, acts: list[Act]) -> None:
        if place == 0:
            self._do(turn, acts)
        else:
            acts.append(Wait(TURN_S * place, turn))

    def turn_came(self, turn: Turn) -> Acts:
        """Do what this unit has waited for its turn to do, unless another has done it."""
        acts: list[Act] = []
        if turn.what is What.REPORT:
            writes = self._accusations.release(turn.rank, self._dead)
            return () if self.over else tuple(Transact(write) for write in writes)
        self._do(turn, acts)
        return tuple(acts)

    def _do(self, turn: Turn, acts: list[Act]) -> None:
        if self.over or self._left or self._newest is None or self._unit.host not in self._living:
            return
        if turn.what is What.ACCUSE:
            if turn.host in self._silent and self._living[turn.host]:
                ranks = self._newest.ranks_of[turn.host]
                writes = self._accusations.add(ranks, self._dead, Evidence.LEASE, f"host {turn.host}", 0.0, turn.host)
                acts += [Transact(write) for write in writes]
        elif turn.generation != self._newest.generation + 1:
            return
        elif turn.what is What.PUBLISH:
            if self._unit.host not in self._holdings.get(turn.generation, {}):
                acts.append(Freeze(turn.generation))
        elif self._all_published(turn.generation):
            acts.append(Transact(self._decide(self._newest)))
        else:
            self._asked_turn = self._newest.generation

    def _decide(self, before: Decision) -> Write:
        found = poisoned(self._dead.values()) or decide(
            before,
            self._dead.keys(),
            self._holdings[before.generation + 1],
            self.history,
            backups=self._backups,
            placement=self._placement,
            by=str(self._unit),
            checkpoint=self._checkpoint,
        )
        if isinstance(found, Ending):
            return records.conclude(before.generation, found)
        return records.begin(found)


def answers_with_status(over: Over, newest: Generation) -> bool:
    """Tell whether a host answers a tombstone with the status: one of its ranks knows that this generation is over."""
    return over.generation == newest
