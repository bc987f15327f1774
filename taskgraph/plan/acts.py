"""What a unit is to do, as its machine (`taskgraph.plan.succession`) says, and what it reads from its host."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from taskgraph.ids import Generation, Host, Rank
from taskgraph.plan.decision import Decision
from taskgraph.plan.evidence import Tombstone
from taskgraph.plan.holdings import NOTHING_KNOWN, Held, Known
from taskgraph.plan.records import Write


@dataclass(frozen=True, slots=True)
class Over:
    """What `MarkOver` wrote down on a host."""

    generation: Generation
    status: int


@dataclass(frozen=True, slots=True)
class HostState:
    """What a unit finds in the shared memory of its host, read after the floor was raised."""

    slots: tuple[Held, ...]
    known: Known = NOTHING_KNOWN
    over: Over | None = None


@dataclass(frozen=True, slots=True)
class Freeze:
    """Raise the floor of the host to `generation`, then read the host and answer with `Succession.frozen`."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class RaiseFloor:
    """Raise the floor of the host to `generation`."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class Abort:
    """Set the abort words of the host's ranks: those of a generation below this one leave their epoch."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class Transact:
    """Do this in etcd, again until it is answered, and answer with `Succession.answered`."""

    write: Write


class What(Enum):
    """What units take turns at, so that not all of them do it at once."""

    ACCUSE = auto()
    """Say that a host is silent."""
    REPORT = auto()
    """Say that MPI reports a rank as failed, unless who saw its process has said more."""
    PUBLISH = auto()
    """Say what the host holds."""
    DECIDE = auto()


@dataclass(frozen=True, slots=True)
class Turn:
    """A unit's turn at something.

    Attributes
    ----------
    host
        The silent one, for `What.ACCUSE`.
    rank
        The dead one, for `What.REPORT`.
    """

    what: What
    generation: Generation
    host: Host = ""
    rank: Rank = -1


@dataclass(frozen=True, slots=True)
class Wait:
    """Call `Succession.turn_came` after so many seconds."""

    delay_s: float
    turn: Turn


@dataclass(frozen=True, slots=True)
class Adopt:
    """Give this to the main thread; it replaces an earlier one that was not taken yet."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class LeaveDead:
    """Let this unit's rank leave at once: it has a tombstone."""

    tombstone: Tombstone


Act: TypeAlias = Freeze | RaiseFloor | Abort | Transact | Wait | Adopt | LeaveDead
Acts: TypeAlias = tuple[Act, ...]
