"""What the keeper sees of the processes of its host's ranks: who died and how, who has been stopped for too long.

Rule 1: a rank that has left in order is nobody's business; whether it did is looked up after its process is gone, since
then it cannot change any more. Rule 2: a keeper that was itself suspended, or whose launcher is, accuses no rank of
being stopped: the whole job was, and goes on together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from taskgraph.backends.observed import Exit, Observed, killed_for_memory
from taskgraph.backends.processes import Condition, Process, condition
from taskgraph.plan.evidence import Evidence
from taskgraph.run.host.roster import Entry

STOPPED_S = 2.0
"""A rank that has been stopped for so long, in seconds, is dead. What a debugger holds does not count."""
JUMP_S = 1.0
"""Who has not looked for so long, in seconds, was suspended."""
_LOOK_S = 0.02
_LOOK_PER_RANK_S = 0.001


@dataclass(frozen=True, slots=True)
class Death:
    """A rank is dead.

    Attributes
    ----------
    index
        Of the rank on its host.
    at
        When it was seen, in seconds since 1970.
    """

    index: int
    evidence: Evidence
    detail: str
    at: float


class RankWatch:
    """Looks at the ranks of one host.

    Parameters
    ----------
    has_left
        Tells whether a rank, by its index, has left in order.
    launcher
        While one of these is stopped, the job is suspended.
    lease_s
        How long nobody is accused of being stopped after this process was suspended, in seconds.
    """

    def __init__(
        self,
        has_left: Callable[[int], bool],
        launcher: Sequence[Process] = (),
        lease_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
        memory_kills: Callable[[], int] = killed_for_memory,
    ) -> None:
        self._has_left = has_left
        self._launcher = launcher
        self._lease_s = lease_s
        self._clock = clock
        self._memory_kills = memory_kills
        self._memory_kills_before = memory_kills()
        self._ranks: dict[int, Observed] = {}
        self._known: set[int] = set()
        self._stopped: dict[int, float] = {}
        self._looked = clock()
        self._trust_at = -math.inf

    @property
    def every_s(self) -> float:
        """How long to wait between two looks, in seconds: they must not cost a noticeable part of a core."""
        return max(_LOOK_S, _LOOK_PER_RANK_S * len(self._ranks)) if self._ranks else math.inf

    def know(self, roster: Iterable[Entry]) -> None:
        """Take in who is there."""
        self._memory_kills_before = self._memory_kills()
        for entry in roster:
            if entry.left:
                self._forget(entry.index)
            elif entry.index not in self._known:
                self._ranks[entry.index] = Observed(entry.process)
            self._known.add(entry.index)

    def look(self) -> list[Death]:
        """Return the ranks that died since the last look, each once."""
        now = self._clock()
        if now - self._looked > JUMP_S:
            self._stopped.clear()
            self._trust_at = now + self._lease_s
        self._looked = now
        deaths = [self._look_at(index, observed, now) for index, observed in self._ranks.items()]
        found = [death for death in deaths if death is not None]
        for death in found:
            self._forget(death.index)
        return [death for death in found if death.evidence is Evidence.STOPPED or not self._has_left(death.index)]

    def _look_at(self, index: int, observed: Observed, now: float) -> Death | None:
        found = observed.condition()
        if found is Condition.GONE:
            return Death(index, Evidence.PROCESS, self._words(observed), time.time())
        if found is not Condition.STOPPED:
            self._stopped.pop(index, None)
            return None
        stopped_s = now - self._stopped.setdefault(index, now)
        if stopped_s < STOPPED_S or now < self._trust_at:
            return None
        if any(condition(process) is Condition.STOPPED for process in self._launcher):
            self._stopped[index] = now
            return None
        return Death(index, Evidence.STOPPED, f"{observed.process} for {stopped_s:.1f} s", time.time())

    def _words(self, observed: Observed) -> str:
        ended = observed.exit()
        return describe(observed.process, ended, 0 <= self._memory_kills_before < self._memory_kills())

    def _forget(self, index: int) -> None:
        self._stopped.pop(index, None)
        if (observed := self._ranks.pop(index, None)) is not None:
            observed.close()


def describe(process: Process, ended: Exit, out_of_memory: bool = False) -> str:
    """Say how a rank's process ended.

    Parameters
    ----------
    out_of_memory
        Whether the kernel has just killed something for lack of memory.
    """
    why = ""
    if out_of_memory and ended.signal == 9:
        why = ", it seems by the kernel for lack of memory"
    elif ended.status == 0:
        why = " without leaving the job"
    return f"{process} {ended}{why}"
