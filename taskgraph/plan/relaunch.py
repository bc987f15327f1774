"""What a supervisor does when a launcher has ended: nothing, launch the job again, or give it up.

Rule 1: the job is over when the framework said so, whatever the launcher's exit status is: launchers say 0 after kills,
and something else after a job that ended well. Rule 2: what a person has ended is not launched again. Rule 3: a driver
that ended by itself before it had started its job, on one rank or on all, ends the same way the next time. Rule 4: a
relaunch that resumes where the one before did has made no progress; three of these in a row are enough.

An attempt is one start of the launcher. Its number is the high part of the generation, so that no number ever returns:
what was written in one attempt is told from what the next one writes as the work of two generations is.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from taskgraph.ids import Epoch, Generation
from taskgraph.plan.ending import Ending

GENERATIONS = 1 << 20
"""How many generations an attempt may have."""
ATTEMPTS = 1 << 12
"""How many attempts a run may have: a generation has 32 bits."""
FRUITLESS = 3
"""Relaunches without progress, one after the other, that end the job."""


def first_generation(attempt: int) -> Generation:
    """Return the generation that an attempt begins with."""
    return attempt * GENERATIONS


def run_of(attempt: int, series: str) -> str:
    """Return the identity of the run that an attempt is, for the key ``run``: so that each fences the one before."""
    return f"{attempt:03x}{series}"


def is_successor(run: str, of: str) -> bool:
    """Tell whether `run` is another attempt of the run that `of` was one of."""
    return run[3:] == of[3:]


def failures_before(generation: Generation) -> int:
    """Return how many failures the attempt of a generation had survived in place when the generation began."""
    return generation % GENERATIONS


PAUSING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)
"""Signals that let a job pause which can."""
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals after which no job runs on."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person, or a batch system, wants of a job.

    Attributes
    ----------
    pause
        The signal that asked for a pause first; 0: none has.
    end
        The signal that asked for the end last: nothing is launched again. 0: none has.
    at_once
        Whether it is to end without a pause before.
    """

    pause: int = 0
    end: int = 0
    at_once: bool = False

    @classmethod
    def of(cls, signals: Sequence[int]) -> Wish:
        """Read it from all signals that have come, in their order."""
        chance = next((at for at, number in enumerate(signals) if number in PAUSING), None)
        ending = [at for at, number in enumerate(signals) if number in ENDING]
        return cls(
            pause=0 if chance is None else signals[chance],
            end=signals[ending[-1]] if ending else 0,
            at_once=any(at != chance for at in ending),
        )

    def ends(self, *, pausing: bool) -> bool:
        """Whether to end the launcher now: of a job that pauses, or of one that cannot, or cannot be told yet."""
        return bool(self.end) and (self.at_once or not pausing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is known of an attempt that has ended.

    Attributes
    ----------
    status
        Of the launcher; negative: the signal that ended it.
    reached
        Whether a rank came to the start of its job.
    met
        Whether all ranks did, and found each other.
    boundary
        What the job resumed from, or began with; None: it did not get that far.
    ending
        How the job ended; None: nobody said that it did.
    interrupted
        The signal by which a person or a batch system asked for its end, though it may have been let pause; 0: none.
    """

    status: int
    reached: bool
    met: bool = False
    boundary: Epoch | None = None
    ending: Ending | None = None
    interrupted: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The job is over, with this status."""

    status: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Relaunch:
    """Start the launcher again."""

    why: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End with this status, which is not 0, and say why."""

    status: int
    why: str


Outcome: TypeAlias = Done | Relaunch | GiveUp


def after(attempts: Sequence[Attempt], limit: int) -> Outcome:
    """Say what follows.

    Parameters
    ----------
    attempts
        All that there were, the one that has just ended last.
    limit
        How many relaunches there may be.
    """
    last = attempts[-1]
    if last.ending is not None:
        return Done(last.ending.status, last.ending.describe())
    if last.interrupted:
        return GiveUp(128 + last.interrupted, f"ended by signal {last.interrupted}")
    if not last.reached and not _tells_of_signal(last.status):
        return _ended_by_itself(last)
    if last.status > 0 and not _tells_of_signal(last.status) and not any(map(_has_met, attempts)):
        why = f"a rank ended before it came to the start of the job, and the launcher with status {last.status}"
        return GiveUp(last.status, why)
    told = f"the launcher {_ended(last.status)} while the job was not over"
    fruitless = _fruitless(attempts)
    if fruitless >= FRUITLESS:
        return GiveUp(_failure(last), f"{told}; {fruitless} relaunches in a row have come no further")
    if len(attempts) > min(limit, ATTEMPTS - 1):
        return GiveUp(
            _failure(last), f"{told}; it has been launched again {len(attempts) - 1} times, which is the limit"
        )
    return Relaunch(told)


def _tells_of_signal(status: int) -> bool:
    """Whether the launcher was killed, or says as a shell does that a rank was."""
    return status < 0 or 128 < status <= 128 + 64


def _ended_by_itself(last: Attempt) -> Outcome:
    """Judge a driver that never started its job: it may be no driver at all, and have ended well."""
    if last.status == 0:
        return Done(0)
    return GiveUp(last.status, f"the program ended with status {last.status} before it started a job")


def _has_met(attempt: Attempt) -> bool:
    return attempt.met or attempt.boundary is not None


def _fruitless(attempts: Sequence[Attempt]) -> int:
    """Return how many attempts at the end were relaunches that resumed no later than what had been reached before."""
    count, furthest = 0, _at(attempts[0])
    for attempt in attempts[1:]:
        count = count + 1 if _at(attempt) <= furthest else 0
        furthest = max(furthest, _at(attempt))
    return count


def _at(attempt: Attempt) -> Epoch:
    return -1 if attempt.boundary is None else attempt.boundary


def _ended(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _failure(attempt: Attempt) -> int:
    return attempt.status if attempt.status > 0 else 1
