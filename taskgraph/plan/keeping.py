"""When a keeper kills, waits, cleans up and leaves: one table.

Rule 1: ranks are killed when their launcher is gone, or when a job that failed has been over for its grace; never
after a success, since what users do after it may take its time. Rule 2: the keeper cleans up only when no rank of its
host needs anything of it, and then always. Rule 3: whoever keeps the job's etcd stays as long as the job, also with no
rank left, and lets others go first, but not for long. Rule 4: where a supervisor launches the job again, snapshots wait
for that: as long as the supervisor is seen to live, or a batch system says that the job does, else two minutes at most;
the next launch ends this keeper.
"""

from __future__ import annotations

import math
from enum import Enum, auto

from taskgraph.plan.ending import Ending


class Phase(Enum):
    """What a keeper is about."""

    SERVING = auto()
    """The job runs."""
    EMPTY = auto()
    """The job runs, but no rank of this host does."""
    ENDING = auto()
    """The job is over; ranks leave by themselves."""
    CLEARING = auto()
    """Ranks are being killed."""
    LINGERING = auto()
    """No rank is left; what else must go first has a moment."""
    HOLDING = auto()
    """The job is not over: what the host holds is kept for its next launch."""
    LEAVING = auto()


class Fact(Enum):
    """What a keeper finds out."""

    SUCCEEDED = auto()
    """The job is over, and nobody is to be killed for it."""
    FAILED = auto()
    """The job is over, and who does not notice is killed."""
    GRACE_OVER = auto()
    LAUNCHER_GONE = auto()
    RANKS_GONE = auto()
    """No rank is left, and one at least died: left without saying so."""
    RANKS_LEFT = auto()
    """No rank is left, and all said so: the job is over for them."""
    NOT_NEEDED = auto()
    """Nobody else depends on this keeper, and there is nothing to wait for."""
    UNFINISHED = auto()
    """Nobody else depends on this keeper; but the job is not over, and somebody launches it again."""
    PATIENCE_OVER = auto()
    """What this phase waits for has not come in its time."""


class Do(Enum):
    """What a keeper is to do."""

    SET_WORDS = auto()
    START_GRACE = auto()
    REPORT_LAUNCHER = auto()
    """Write the job's ending: its launcher is gone."""
    KILL_RANKS = auto()
    RELEASE = auto()
    """Give the host up and end etcd, but leave the files."""
    CLEAN_UP = auto()
    """Give the host up, end etcd, remove the files."""
    HAND_BACK = auto()
    """Where it is the machine of the supervisor that is lost, let the batch system run the job again."""


_KILL = (Do.SET_WORDS, Do.KILL_RANKS)

_CHANGES: dict[tuple[Phase, Fact], tuple[Phase, tuple[Do, ...]]] = {
    (Phase.SERVING, Fact.SUCCEEDED): (Phase.ENDING, (Do.SET_WORDS,)),
    (Phase.SERVING, Fact.FAILED): (Phase.ENDING, (Do.SET_WORDS, Do.START_GRACE)),
    (Phase.SERVING, Fact.LAUNCHER_GONE): (Phase.CLEARING, (*_KILL, Do.REPORT_LAUNCHER)),
    (Phase.SERVING, Fact.RANKS_GONE): (Phase.EMPTY, ()),
    (Phase.SERVING, Fact.RANKS_LEFT): (Phase.LINGERING, ()),
    (Phase.EMPTY, Fact.SUCCEEDED): (Phase.LINGERING, ()),
    (Phase.EMPTY, Fact.FAILED): (Phase.LINGERING, ()),
    (Phase.EMPTY, Fact.LAUNCHER_GONE): (Phase.CLEARING, (*_KILL, Do.REPORT_LAUNCHER)),
    (Phase.EMPTY, Fact.PATIENCE_OVER): (Phase.LINGERING, ()),
    (Phase.ENDING, Fact.GRACE_OVER): (Phase.CLEARING, _KILL),
    (Phase.ENDING, Fact.LAUNCHER_GONE): (Phase.CLEARING, _KILL),
    (Phase.ENDING, Fact.RANKS_GONE): (Phase.LINGERING, ()),
    (Phase.ENDING, Fact.RANKS_LEFT): (Phase.LINGERING, ()),
    (Phase.CLEARING, Fact.RANKS_GONE): (Phase.LINGERING, ()),
    (Phase.CLEARING, Fact.RANKS_LEFT): (Phase.LINGERING, ()),
    (Phase.CLEARING, Fact.PATIENCE_OVER): (Phase.LINGERING, ()),
    (Phase.LINGERING, Fact.NOT_NEEDED): (Phase.LEAVING, (Do.CLEAN_UP,)),
    (Phase.LINGERING, Fact.PATIENCE_OVER): (Phase.LEAVING, (Do.CLEAN_UP,)),
    (Phase.LINGERING, Fact.UNFINISHED): (Phase.HOLDING, (Do.RELEASE,)),
    (Phase.HOLDING, Fact.NOT_NEEDED): (Phase.LEAVING, (Do.CLEAN_UP, Do.HAND_BACK)),
    (Phase.HOLDING, Fact.PATIENCE_OVER): (Phase.LEAVING, (Do.CLEAN_UP,)),
}

# A fact holds on, and is found again at every look: where it changes nothing, it says nothing new.
TABLE = {(phase, fact): _CHANGES.get((phase, fact), (phase, ())) for phase in Phase for fact in Fact}


HOLD_S = 120.0
"""How long a host holds its snapshots for the next launch where nobody tells whether there will be one, in seconds."""


def patience_s(phase: Phase, keeps_etcd: bool) -> float:
    """Return how long a phase waits at most, in seconds.

    Where the job ends with its launcher they add up to less than ten.
    """
    if phase is Phase.CLEARING:
        return 4.0
    if phase is Phase.HOLDING:
        return HOLD_S
    if phase is Phase.LINGERING or (phase is Phase.EMPTY and not keeps_etcd):
        return 2.0
    return math.inf


def step(phase: Phase, fact: Fact) -> tuple[Phase, tuple[Do, ...]]:
    """Take in one fact: return the new phase, and what is to be done, in this order."""
    return TABLE[phase, fact]


def verdict(ending: Ending) -> Fact:
    """Tell whether ranks that do not notice an ending are killed: not for a status that the program itself chose."""
    return Fact.FAILED if ending.status != 0 and ending.message else Fact.SUCCEEDED
