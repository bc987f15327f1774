"""The keys of a job in etcd, and the transactions of recovery on them; `taskgraph.plan.news` reads them.

Every write is a transaction: it creates keys, and only if certain others are absent. The condition that the key ``run``
still names this run is the coordinator's own (`belongs`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from taskgraph.ids import Epoch, Generation, Host, Rank
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Tombstone
from taskgraph.plan.holdings import Holdings
from taskgraph.plan.manifest import Name
from taskgraph.plan.news import CheckpointFailed, CheckpointWanted, PauseAsked

RUN = "run"
"""The identity of the run that the keys belong to."""
STATUS = "status"
PROGRESS = "progress"
TOLD = "told"
"""Which rank prints what no rank has said."""
WANTED = "checkpoint/wanted"
NEWEST = "checkpoint/newest"
PAUSE = "checkpoint/pause"
DEAD = "dead/"
"""What the keys of all tombstones begin with."""
HOSTS = "hosts/"
"""What the keys of all leases begin with."""


def failed_key(boundary: Epoch, generation: Generation) -> str:
    """Return the key of why there is no checkpoint of a boundary: the first rank that could not do its part."""
    return f"checkpoint/failed/{generation}.{boundary}"


def dead_key(rank: Rank) -> str:
    """Return the key of a rank's tombstone."""
    return f"{DEAD}{rank}"


def rank_key(rank: Rank) -> str:
    """Return the key of where a rank runs."""
    return f"ranks/{rank}"


def host_key(host: Host) -> str:
    """Return the key that a host's lease holds."""
    return f"{HOSTS}{host}"


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
    return Write({WANTED: value}, excluded_by_decision(wanted.generation))


def pause(asked: PauseAsked) -> Write:
    """Ask for the end of the job, with a checkpoint to go on from."""
    return Write({PAUSE: json.dumps([asked.rank, asked.why]).encode()}, (PAUSE,))


def fail_checkpoint(failed: CheckpointFailed) -> Write:
    """Say that a rank cannot do its part of a checkpoint."""
    value = json.dumps([failed.boundary, failed.generation, failed.rank, failed.why]).encode()
    key = failed_key(failed.boundary, failed.generation)
    return Write({key: value}, (key, *excluded_by_decision(failed.generation)))


def complete(name: Name) -> Write:
    """Say that a checkpoint is complete, if its generation is still the newest.

    Otherwise the next generation, not knowing of it, may have resumed below it, and it belongs to a history that was
    given up.
    """
    return Write({NEWEST: str(name).encode()}, excluded_by_decision(name.generation))


def excluded_by_status() -> tuple[str, ...]:
    """Return what must be absent for a generation to begin: the end of the job."""
    return (STATUS,)


def conclude(generation: Generation, ending: Ending) -> Write:
    """End the job, as `generation` finds it, if no later generation has begun."""
    return Write({STATUS: ending.encode()}, (STATUS, *excluded_by_decision(generation)))


def excluded_by_decision(generation: Generation) -> tuple[str, ...]:
    """Return what must be absent for `generation` to end the job, or to say something of checkpoints: the next one."""
    return (decision_key(generation + 1),)


def fail(rank: Rank, generation: Generation, ending: Ending) -> Write:
    """End the job by an error of the application, if the rank counts as alive and its generation is the newest.

    Otherwise the error is dropped: the rank may have computed with what it should not have, and a real one comes again.
    """
    return Write({STATUS: ending.encode()}, (STATUS, *must_be_current(rank, generation)))


def must_be_current(rank: Rank, generation: Generation) -> tuple[str, ...]:
    """Return what must be absent for an error of `rank` in `generation` to count."""
    return (dead_key(rank), decision_key(generation + 1))
