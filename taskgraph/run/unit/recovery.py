"""What a unit does about failures: it carries out what `taskgraph.plan.succession` says, in the sidecar's thread."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from taskgraph import trace
from taskgraph.backends.commits import Commits
from taskgraph.backends.coordinator import Coordinator, Deleted, Event, Put, Resync
from taskgraph.backends.slots import SlotDir
from taskgraph.backends.words import AbortWords
from taskgraph.errors import CoordinatorUnreachable
from taskgraph.ids import Generation, Rank
from taskgraph.plan import acts, records
from taskgraph.plan.acts import Acts, HostState, Turn
from taskgraph.plan.decision import Decision
from taskgraph.plan.evidence import Evidence, Tombstone, Work
from taskgraph.plan.lineage import History
from taskgraph.plan.news import Checkpoints, News, RankDead, read, read_deleted
from taskgraph.plan.records import Write
from taskgraph.plan.succession import Succession
from taskgraph.run.state.host_snapshots import read_slots

log = logging.getLogger(__name__)

RETRY_S = 0.2


class Follower(Protocol):
    """Whom a unit tells of generations."""

    def decided(self, decision: Decision, history: History) -> None:
        """Hear that a generation has begun."""

    def lost(self, tombstone: Tombstone) -> None:
        """Hear that ranks are dead."""

    def dead(self, tombstone: Tombstone) -> None:
        """Hear that the unit's own rank has been declared dead."""

    def checkpoint(self, said: Checkpoints) -> None:
        """Hear what is said of checkpoints."""


class Recovery:
    """One unit's part in recovery.

    Parameters
    ----------
    succession
        Decides.
    slots, commits, words
        Of the host.
    follower
        Is told; in the thread of the sidecar.
    lease_s
        How long a unit that was suspended accuses no silent host, in seconds: its own clock jumped, and others may just
        be about to renew their leases.
    """

    def __init__(
        self,
        succession: Succession,
        slots: SlotDir,
        commits: Commits,
        words: AbortWords,
        follower: Follower,
        lease_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._succession = succession
        self._slots = slots
        self._commits = commits
        self._words = words
        self._follower = follower
        self._lease_s = lease_s
        self._clock = clock
        self._writes: deque[Write] = deque()
        self._timers: list[tuple[float, Turn]] = []
        self._accused: deque[tuple[tuple[Rank, ...], Evidence, str, float, Work | None]] = deque()
        self._held: list[Write] = []
        self.has_accused = False
        """Whether `accuse` was called: what was seen of a process is never taken back, unlike the silence of a host."""
        self._trust_at = -math.inf
        self._retry_at = 0.0

    @property
    def tombstones(self) -> dict[Rank, Tombstone]:
        """Every tombstone that was heard of."""
        return self._succession.tombstones

    @property
    def pending(self) -> bool:
        """Whether a failure is known here that is not recovered from."""
        return self._succession.failure_known or bool(self._accused)

    def must_write(self, generation: Generation) -> bool:
        """Tell whether the end of the job in a generation has to be in etcd before anyone leaves; from any thread."""
        return bool(self._accused) or self._succession.must_write(generation)

    def accuse(
        self,
        ranks: Iterable[Rank],
        evidence: Evidence,
        detail: str = "",
        at: float | None = None,
        working: Work | None = None,
    ) -> None:
        """Report ranks as dead, seen at `at` (seconds since 1970; None: now). From any thread; wake the sidecar."""
        self.has_accused = True
        self._accused.append((tuple(ranks), evidence, detail, time.time() if at is None else at, working))

    def suspended(self) -> None:
        """Note that this unit has not run for a while: for the time of a lease it accuses no host of silence."""
        self._trust_at = self._clock() + self._lease_s

    def report_self(self, coordinator: Coordinator, rank: Rank, reporter: str, detail: str) -> bool:
        """Write the tombstone of this unit's own rank.

        Returns
        -------
        bool
            False where no rank would be left to go on: nothing is recovered then.
        """
        newest = self._succession.newest
        if newest is None:
            return False
        said = records.bury(Tombstone((rank,), Evidence.SELF, reporter, detail, time.time()))
        coordinator.write(said.entries, absent=said.absent)
        dead = {int(key.rpartition("/")[2]) for key in coordinator.read(records.DEAD)}
        return not dead.issuperset(newest.live)

    def hear(self, news: Event) -> None:
        """Take in a change in etcd."""
        match news:
            case Resync(entries):
                everything = [read(key, value) for key, value in entries.items()]
                self._tell(everything)
                self._obey(self._succession.resync(said for said in everything if said is not None))
            case Put(key, value):
                said = read(key, value)
                self._tell([said])
                if said is not None:
                    self._obey(self._succession.hear([said]))
            case Deleted(key):
                said = read_deleted(key)
                if said is not None:
                    self._obey(self._succession.hear([said]))

    def _tell(self, news: Iterable[News | None]) -> None:
        for said in news:
            if isinstance(said, RankDead) and said.rank not in self._succession.tombstones:
                self._follower.lost(said.tombstone)
            elif isinstance(said, Checkpoints):
                self._follower.checkpoint(said)

    def turn(self, coordinator: Coordinator) -> float:
        """Do what is to be done in etcd. Return the seconds until there is something to do again."""
        while self._accused:
            self._obey(self._succession.accuse(*self._accused.popleft()))
        now = self._clock()
        if self._held and now >= self._trust_at:
            self._writes += self._held
            self._held.clear()
        for due in [timer for timer in self._timers if timer[0] <= now]:
            self._timers.remove(due)
            self._obey(self._succession.turn_came(due[1]))
        if now >= self._retry_at:
            self._write(coordinator)
        waits = [at - now for at, _ in self._timers]
        waits += [RETRY_S] if self._writes else []
        waits += [self._trust_at - now] if self._held else []
        return min(waits, default=60.0)

    def _write(self, coordinator: Coordinator) -> None:
        while self._writes:
            write = self._writes[0]
            trace.reached("recovery.writing")
            try:
                done = coordinator.write(write.entries, absent=write.absent)
            except CoordinatorUnreachable as error:
                log.debug("recovery waits for etcd: %s", error)
                self._retry_at = self._clock() + RETRY_S
                return
            trace.reached("recovery.written")
            self._writes.popleft()
            self._obey(self._succession.answered(write, done))

    def _obey(self, ordered: Acts) -> None:
        for act in ordered:
            match act:
                case acts.Freeze(generation):
                    self._slots.raise_floor(generation)
                    trace.reached("recovery.floor")
                    known, over = self._commits.read()
                    state = HostState(read_slots(self._slots), known, over)
                    self._obey(self._succession.frozen(generation, state))
                case acts.RaiseFloor(generation):
                    self._slots.raise_floor(generation)
                case acts.Abort(generation):
                    self._words.set_all(generation)
                case acts.Transact(write):
                    held = self._clock() < self._trust_at and _accuses_silent(write)
                    (self._held if held else self._writes).append(write)
                case acts.Wait(delay_s, turn):
                    self._timers.append((self._clock() + delay_s, turn))
                case acts.Adopt(decision):
                    self._follower.decided(decision, self._succession.history)
                case acts.LeaveDead(tombstone):
                    self._follower.dead(tombstone)


def _accuses_silent(write: Write) -> bool:
    """Tell whether a write says of a host that it fell silent: it counts only if its lease is still gone."""
    return any(key.startswith(records.HOSTS) for key in write.absent)
