"""What changes of keys mean to recovery, each read as a value. `taskgraph.plan.records` has keys and writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias

from taskgraph.ids import Epoch, Generation, Host, Rank
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Tombstone
from taskgraph.plan.holdings import Holdings
from taskgraph.plan.manifest import Name


@dataclass(frozen=True, slots=True)
class RankDead:
    """A tombstone was seen."""

    rank: Rank
    tombstone: Tombstone


@dataclass(frozen=True, slots=True)
class HostKnown:
    """A host holds its lease."""

    host: Host


@dataclass(frozen=True, slots=True)
class HostSilent:
    """The lease of a host has expired."""

    host: Host


@dataclass(frozen=True, slots=True)
class Published:
    """A host has said what it holds."""

    generation: Generation
    holdings: Holdings


@dataclass(frozen=True, slots=True)
class Decided:
    """A generation has begun."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class CheckpointWanted:
    """The snapshots of a boundary are to go into a checkpoint.

    Attributes
    ----------
    at_once
        As soon as they are whole, for the job is about to end; otherwise once the boundary is safe, which it may be
        only an epoch later.
    """

    boundary: Epoch
    generation: Generation
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """The job is to end before it is finished, with a checkpoint to go on from: a rank was told so."""

    rank: Rank
    why: str


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """A rank cannot do its part of a checkpoint.

    Attributes
    ----------
    why
        Empty: it heard of it too late.
    """

    boundary: Epoch
    generation: Generation
    rank: Rank
    why: str


@dataclass(frozen=True, slots=True)
class CheckpointComplete:
    """A checkpoint exists."""

    name: Name


Checkpoints: TypeAlias = CheckpointWanted | CheckpointFailed | CheckpointComplete | PauseAsked
News: TypeAlias = RankDead | HostKnown | HostSilent | Published | Decided | Ended | Checkpoints


def read(key: str, value: bytes) -> News | None:
    """Say what a new value of a key means to recovery; None: nothing. Raises ValueError where it cannot be read."""
    match key.split("/"):
        case ["dead", rank]:
            return RankDead(int(rank), Tombstone.decode(value))
        case ["hosts", host]:
            return HostKnown(host)
        case ["gen", generation, "holds", _]:
            return Published(int(generation), Holdings.decode(value))
        case ["gen", _, "decision"]:
            return Decided(Decision.decode(value))
        case ["status"]:
            return Ended(Ending.decode(value))
        case ["checkpoint", what, *_]:
            return _read_checkpoint(what, value)
    return None


def _read_checkpoint(what: str, value: bytes) -> News | None:
    try:
        match what:
            case "wanted":
                boundary, generation, at_once = json.loads(value)
                return CheckpointWanted(int(boundary), int(generation), bool(at_once))
            case "pause":
                rank, why = json.loads(value)
                return PauseAsked(int(rank), str(why))
            case "failed":
                boundary, generation, rank, why = json.loads(value)
                return CheckpointFailed(int(boundary), int(generation), int(rank), str(why))
            case "newest":
                return CheckpointComplete(Name.read(value.decode()))
    except TypeError as error:
        raise ValueError(f"not a word about a checkpoint: {value[:80]!r}") from error
    return None


def read_deleted(key: str) -> News | None:
    """Say what the disappearance of a key means to recovery; None: nothing."""
    match key.split("/"):
        case ["hosts", host]:
            return HostSilent(host)
    return None
