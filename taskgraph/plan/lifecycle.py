"""What a unit does when it hears of something: one table.

A unit is the sidecar thread of a rank, or the keeper of a host. It learns of the job from etcd and tells the ranks of
its host.

Rule 1: a job ends once. The first ending that a unit hears of is delivered, and no other.
Rule 2: nothing of another run is ever taken for ours. A keeper may be there before its run has claimed the name, so it
waits (JOINING) and looks at nothing but the key ``run``. Rule 3: an outage of etcd ends nothing, nor does the loss of
its data.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from taskgraph.errors import GraphError
from taskgraph.ids import Host, Rank
from taskgraph.plan.ending import Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Who is speaking.

    Attributes
    ----------
    run
        Random identity of the run.
    host
        Host that it watches over.
    rank
        Rank whose sidecar it is; None for a keeper.
    """

    run: str
    host: Host
    rank: Rank | None = None

    def __str__(self) -> str:
        return f"the keeper of host {self.host}" if self.rank is None else f"the sidecar of rank {self.rank}"


class State(Enum):
    """How far a unit is."""

    JOINING = auto()
    """The key ``run`` does not name our run yet."""
    RUNNING = auto()
    OVER = auto()
    """An ending was delivered."""


@dataclass(frozen=True, slots=True)
class RunIsOurs:
    """The key ``run`` names our run."""


@dataclass(frozen=True, slots=True)
class RunIsAbsent:
    """There is no key ``run``."""


@dataclass(frozen=True, slots=True)
class RunIsAnothers:
    """The key ``run`` names another run."""

    run: str

    @property
    def ending(self) -> Ending:
        """What that means for a job that runs."""
        return Ending(status=1, message=f"another run of this job has taken over its name (run {self.run})")


@dataclass(frozen=True, slots=True)
class StatusSeen:
    """The key ``status`` has a value."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class EndAsked:
    """Somebody in this process wants the job to end so."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """The unit itself cannot go on."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class EtcdAway:
    """No endpoint answers."""

    why: str


@dataclass(frozen=True, slots=True)
class EtcdBack:
    """An endpoint answers again."""


Event: TypeAlias = RunIsOurs | RunIsAbsent | RunIsAnothers | StatusSeen | EndAsked | UnitFailed | EtcdAway | EtcdBack


class Do(Enum):
    """What a unit is to do; the event that led to it says with what."""

    WRITE_STATUS = auto()
    """Create the key ``status``; whatever it holds then is told as `StatusSeen`."""
    DELIVER = auto()
    """Tell this process how the job ended."""
    SET_WORDS = auto()
    """Set the abort words of the host."""
    ANSWER_LOST = auto()
    """Tell whoever asked for an end that another was first."""
    LOSE_ETCD = auto()
    """Do without etcd: a job to which nothing happens does not need it."""
    LOG_OUTAGE = auto()
    LOG_RETURN = auto()


_END = (Do.DELIVER, Do.SET_WORDS)  # in this order: a rank that finds its word set finds the ending as well

TABLE: dict[tuple[State, type], tuple[State, tuple[Do, ...]]] = {
    (State.JOINING, RunIsOurs): (State.RUNNING, ()),
    (State.JOINING, RunIsAbsent): (State.JOINING, ()),
    (State.JOINING, RunIsAnothers): (State.JOINING, ()),
    (State.JOINING, StatusSeen): (State.JOINING, ()),
    (State.JOINING, EndAsked): (State.JOINING, (Do.WRITE_STATUS,)),
    (State.JOINING, UnitFailed): (State.OVER, _END),
    (State.JOINING, EtcdAway): (State.JOINING, (Do.LOG_OUTAGE,)),
    (State.JOINING, EtcdBack): (State.JOINING, (Do.LOG_RETURN,)),
    (State.RUNNING, RunIsOurs): (State.RUNNING, ()),
    (State.RUNNING, RunIsAbsent): (State.RUNNING, (Do.LOSE_ETCD,)),
    (State.RUNNING, RunIsAnothers): (State.OVER, _END),
    (State.RUNNING, StatusSeen): (State.OVER, _END),
    (State.RUNNING, EndAsked): (State.RUNNING, (Do.WRITE_STATUS,)),
    (State.RUNNING, UnitFailed): (State.OVER, _END),
    (State.RUNNING, EtcdAway): (State.RUNNING, (Do.LOG_OUTAGE,)),
    (State.RUNNING, EtcdBack): (State.RUNNING, (Do.LOG_RETURN,)),
    (State.OVER, RunIsOurs): (State.OVER, ()),
    (State.OVER, RunIsAbsent): (State.OVER, ()),
    (State.OVER, RunIsAnothers): (State.OVER, ()),
    (State.OVER, StatusSeen): (State.OVER, ()),
    (State.OVER, EndAsked): (State.OVER, (Do.ANSWER_LOST,)),
    (State.OVER, UnitFailed): (State.OVER, ()),
    (State.OVER, EtcdAway): (State.OVER, ()),
    (State.OVER, EtcdBack): (State.OVER, ()),
}


def begin(unit: Unit) -> State:
    """Return the state that a unit starts in: a rank is started once its run has claimed the name, a keeper before."""
    return State.JOINING if unit.rank is None else State.RUNNING


def step(state: State, event: Event) -> tuple[State, tuple[Do, ...]]:
    """Take in one event.

    Returns
    -------
    State, tuple of Do
        The new state, and what is to be done, in this order.
    """
    return TABLE[state, type(event)]


def failure(unit: Unit, error: Exception) -> Ending:
    """Return the ending of a job whose unit failed, or whose unit found that the job must fail."""
    if isinstance(error, GraphError):
        channel = None if error.channel is None else str(error.channel)
        return Ending(status=1, message=str(error), task=error.task, epoch=error.epoch, channel=channel)
    what = f"{unit} failed: {type(error).__name__}: {error}"
    return Ending(status=1, message=what, details="".join(traceback.format_exception(error)), rank=unit.rank)
