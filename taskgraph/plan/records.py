"""The keys of a job in etcd that recovery is about, and the transactions on them.

Every write is a transaction: it creates keys, and only if certain others are absent. The condition that the key ``run``
still names this run is the coordinator's own (`belongs`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from taskgraph.ids import Epoch, Generation, Host, Rank
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Tombstone
from taskgraph.plan.holdings import Holdings
from taskgraph.plan.manifest import Name

STATUS = "status"
WANTED = "checkpoint/wanted"
NEWEST = "checkpoint/newest"
PAUSE = "checkpoint/pause"


def failed_key(boundary: Epoch, generation: Generation) -> str:
    """Return the key of why there is no checkpoint of a boundary: the first rank that could not do its part."""
    return f"checkpoint/failed/{generation}.{boundary}"


def dead_key(rank: Rank) -> str:
    """Return the key of a rank's tombstone."""
    return f"dead/{rank}"


def host_key(host: Host) -> str:
    """Return the key that a host's lease holds."""
    return f"hosts/{host}"


def holds_key(generation: Generation, host: Host) -> str:
    """Return the key of what a host offers to a generation."""
    return f"gen/{generation}/holds/{host}"


def decision_key(generation: Generation) -> str:
    """Return the key of a generation's decision."""
    return f"gen/{generation}/decision"


@dataclass(frozen=True, slots=True)
class Write:
    """Create `entries` if every key of `absent` is absent."""

    entries: Mapping[str, bytes]
    absent: tuple[str, ...]


def belongs(found: str | None, ours: str) -> bool:
    """Tell whether a transaction of run `ours` may change anything where the key ``run`` holds `found`."""
    return found == ours


def bury(tombstone: Tombstone, hosts: tuple[Host, ...] = ()) -> Write:
    """Say that ranks are dead; for an expired lease, only if its key in `hosts` is still absent."""
    keys = tuple(map(dead_key, tombstone.ranks))
    return Write(dict.fromkeys(keys, tombstone.encode()), (*keys, *must_lack(tombstone.evidence, hosts)))


def must_lack(evidence: Evidence, hosts: tuple[Host, ...]) -> tuple[str, ...]:
    """Return what must be absent for an accusation to count: a lease that a restarted keeper may have renewed."""
    return tuple(map(host_key, hosts)) if evidence is Evidence.LEASE else ()


def publish(generation: Generation, holdings: Holdings) -> Write:
    """Offer to a generation what a host holds."""
    key = holds_key(generation, holdings.host)
    return Write({key: holdings.encode()}, (key,))


def begin(decision: Decision, newest: Name | None = None) -> Write:
    """Create a generation, if the job is not over.

    Parameters
    ----------
    newest
        For the first: the newest checkpoint of earlier runs.
    """
    key = decision_key(decision.generation)
    entries = {key: decision.encode()}
    if newest is not None:
        entries[NEWEST] = str(newest).encode()
    return Write(entries, (key, *excluded_by_status()))


def want(wanted: CheckpointWanted) -> Write:
    """Ask for a checkpoint."""
    value = json.dumps([wanted.boundary, wanted.generation, wanted.at_once]).encode()
    return Write({WANTED: value}, must_be_newest(wanted.generation))


def pause(asked: PauseAsked) -> Write:
    """Ask for the end of the job, with a checkpoint to go on from."""
    return Write({PAUSE: json.dumps([asked.rank, asked.why]).encode()}, (PAUSE,))


def fail_checkpoint(failed: CheckpointFailed) -> Write:
    """Say that a rank cannot do its part of a checkpoint."""
    value = json.dumps([failed.boundary, failed.generation, failed.rank, failed.why]).encode()
    key = failed_key(failed.boundary, failed.generation)
    return Write({key: value}, (key, *must_be_newest(failed.generation)))


def complete(name: Name) -> Write:
    """Say that a checkpoint is complete, if its generation is still the newest.

    Else the next may have resumed below it, not knowing of it: it is then of a history that was given up.
    """
    return Write({NEWEST: str(name).encode()}, must_be_newest(name.generation))


def must_be_newest(generation: Generation) -> tuple[str, ...]:
    """Return what must be absent for a word of `generation` about checkpoints to count: the next one."""
    return (decision_key(generation + 1),)


def excluded_by_status() -> tuple[str, ...]:
    """Return what must be absent for a generation to begin: the end of the job."""
    return (STATUS,)


def conclude(generation: Generation, ending: Ending) -> Write:
    """End the job, as `generation` finds it, if no later generation has begun."""
    return Write({STATUS: ending.encode()}, (STATUS, *excluded_by_decision(generation)))


def excluded_by_decision(generation: Generation) -> tuple[str, ...]:
    """Return what must be absent for `generation` to end the job: the next one."""
    return (decision_key(generation + 1),)


def fail(rank: Rank, generation: Generation, ending: Ending) -> Write:
    """End the job by an error of the application, if the rank counts as alive and its generation is the newest.

    Otherwise the error is dropped: the rank may have computed with what it should not have, and a real one comes again.
    """
    return Write({STATUS: ending.encode()}, (STATUS, *must_be_current(rank, generation)))


def must_be_current(rank: Rank, generation: Generation) -> tuple[str, ...]:
    """Return what must be absent for an error of `rank` in `generation` to count."""
    return (dead_key(rank), decision_key(generation + 1))


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
