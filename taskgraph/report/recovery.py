"""The words for failures that were survived."""

from __future__ import annotations

from collections.abc import Iterable

from taskgraph.ids import Rank
from taskgraph.plan.evidence import WORDS, Tombstone
from taskgraph.plan.manifest import Name
from taskgraph.run.rank.timeline import Recovered, Survived, moved

_MOST = 6


def recovery(recovered: Recovered) -> str:
    """Return what to print, once, for ranks that were lost: which and why, who goes on with what, in which time."""
    after = recovered.decision
    lost = "; ".join(_lost(recovered, tombstone) for tombstone in recovered.tombstones)
    lost = lost or f"{_several('rank', after.dead)} lost"
    undone = ["what was committed after that is undone"] if after.undoes else []
    made = [f"{_several('task', after.rebuild)} made from checkpoint {after.checkpoint}"] if after.checkpoint else []
    return f"taskgraph: {'; '.join([lost, *_takeovers(recovered), *made, *undone, _goes_on(recovered)])}"


def resumption(checkpoint: Name, where: str) -> str:
    """Return what to print, once, where a job goes on from a checkpoint of an earlier run."""
    return f"taskgraph: the job goes on at epoch {checkpoint.boundary}, from checkpoint {checkpoint} at {where}"


def survival(survived: Survived) -> str:
    """Return what to print at the end of a job that has lost ranks."""
    failures = f"{survived.failures} failure{'s' if survived.failures != 1 else ''}"
    return (
        f"taskgraph: {survived.epochs} epochs, {failures} survived ({_several('rank', survived.lost)} lost), "
        f"{survived.lost_s:.2f} s of time lost"
    )


def _lost(recovered: Recovered, tombstone: Tombstone) -> str:
    before = recovered.before
    ranks = [rank for rank in tombstone.ranks if rank in before.host_of]
    hosts = dict.fromkeys(before.host_of[rank] for rank in ranks)
    tasks = [task for rank in ranks for task in before.layout.primaries_of(rank)]
    where = f" on {_several('host', hosts)}" if hosts else ""
    ran = f" ({_several('task', tasks)})" if tasks else ""
    detail = f": {tombstone.detail}" if tombstone.detail else ""
    return f"{_several('rank', ranks)}{where}{ran} lost, {WORDS[tombstone.evidence]}{detail}, says {tombstone.reporter}"


def _takeovers(recovered: Recovered) -> list[str]:
    """Say which rank runs which task from now on, where that is another than before."""
    by_rank: dict[Rank, list[int]] = {}
    for task, rank in moved(recovered.before, recovered.decision).items():
        by_rank.setdefault(rank, []).append(task)
    said = [f"rank {rank} takes over {_several('task', tasks)}" for rank, tasks in list(by_rank.items())[:_MOST]]
    return said + ([f"{len(by_rank) - _MOST} more ranks take over others"] if len(by_rank) > _MOST else [])


def _goes_on(recovered: Recovered) -> str:
    after = recovered.decision
    live = f"{len(after.live)} rank{'s' if len(after.live) > 1 else ''}"
    known, agreed = 1000 * recovered.known_s, 1000 * recovered.agreed_s
    return (
        f"epoch {after.boundary} is run again by {live} as generation {after.generation}, "
        f"{1000 * recovered.restored_s:.1f} ms after the death (known {known:.1f}, agreed {agreed:.1f})"
    )


def _several(noun: str, numbers: Iterable[object]) -> str:
    """Say ``rank 3``, ``ranks 3 and 5``, ``ranks 3, 5, 6``, or how many there are."""
    words = [str(number) for number in numbers]
    if len(words) == 1:
        return f"{noun} {words[0]}"
    if len(words) == 2:
        return f"{noun}s {words[0]} and {words[1]}"
    shown = ", ".join(words[:_MOST])
    return f"{noun}s {shown}" + (f" and {len(words) - _MOST} more" if len(words) > _MOST else "")
