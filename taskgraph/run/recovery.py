"""What a unit does about failures: it carries out what `taskgraph.plan.succession` says, in the sidecar's thread."""

from __future__ import annotations

import logging
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
from taskgraph.ids import Rank
from taskgraph.plan import records, succession
from taskgraph.plan.decision import Decision
from taskgraph.plan.evidence import Evidence, Tombstone
from taskgraph.plan.lineage import History
from taskgraph.plan.records import Write
from taskgraph.plan.succession import Acts, HostState, Succession, Turn
from taskgraph.run.host_snapshots import read_slots

log = logging.getLogger(__name__)

RETRY_S = 0.2


class Follower(Protocol):
    """Whom a unit tells of generations."""

    def decided(self, decision: Decision, history: History) -> None:
        """Hear that a generation has begun."""

    def dead(self, tombstone: Tombstone) -> None:
        """Hear that the unit's own rank has been declared dead."""


class Recovery:
    """One unit's part in recovery.

    Parameters
    ----------
    machine
        Decides.
    slots, commits, words
        Of the host.
    follower
        Is told; in the thread of the sidecar.
    wake
        Makes the sidecar take a turn: accusations come from other threads.
    """

    def __init__(
        self,
        machine: Succession,
        slots: SlotDir,
        commits: Commits,
        words: AbortWords,
        follower: Follower,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine = machine
        self._slots = slots
        self._commits = commits
        self._words = words
        self._follower = follower
        self._clock = clock
        self._writes: deque[Write] = deque()
        self._timers: list[tuple[float, Turn]] = []
        self._accused: deque[tuple[tuple[Rank, ...], Evidence, str]] = deque()
        self._retry_at = 0.0

    def accuse(self, ranks: Iterable[Rank], evidence: Evidence, detail: str = "") -> None:
        """Report ranks as dead; from any thread. The caller wakes the sidecar."""
        self._accused.append((tuple(ranks), evidence, detail))

    def hear(self, news: Event) -> None:
        """Take in a change in etcd."""
        match news:
            case Resync(entries):
                everything = (records.read(key, value) for key, value in entries.items())
                self._obey(self._machine.resync(said for said in everything if said is not None))
            case Put(key, value):
                said = records.read(key, value)
                if said is not None:
                    self._obey(self._machine.hear([said]))
            case Deleted(key):
                said = records.read_deleted(key)
                if said is not None:
                    self._obey(self._machine.hear([said]))

    def turn(self, coordinator: Coordinator) -> float:
        """Do what is to be done in etcd. Return the seconds until there is something to do again."""
        while self._accused:
            ranks, evidence, detail = self._accused.popleft()
            self._obey(self._machine.accuse(ranks, evidence, detail, time.time()))
        now = self._clock()
        for due in [timer for timer in self._timers if timer[0] <= now]:
            self._timers.remove(due)
            self._obey(self._machine.turn_came(due[1]))
        if now >= self._retry_at:
            self._write(coordinator)
        return min([at - now for at, _ in self._timers] + ([RETRY_S] if self._writes else []), default=60.0)

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
            self._obey(self._machine.answered(write, done))

    def _obey(self, acts: Acts) -> None:
        for act in acts:
            match act:
                case succession.Freeze(generation):
                    self._slots.raise_floor(generation)
                    trace.reached("recovery.floor")
                    known, over = self._commits.read()
                    state = HostState(read_slots(self._slots), known, over)
                    self._obey(self._machine.frozen(generation, state))
                case succession.RaiseFloor(generation):
                    self._slots.raise_floor(generation)
                case succession.Abort(generation):
                    self._words.set_all(generation)
                case succession.Transact(write):
                    self._writes.append(write)
                case succession.Wait(delay_s, turn):
                    self._timers.append((self._clock() + delay_s, turn))
                case succession.Adopt(decision):
                    self._follower.decided(decision, self._machine.history)
                case succession.LeaveDead(tombstone):
                    self._follower.dead(tombstone)
