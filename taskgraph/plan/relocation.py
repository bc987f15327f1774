"""Who takes over: the layout after a loss.

A primary stays where it is if it lives. Otherwise a live backup takes over whose host holds the boundary to resume
from, else the least loaded rank of a host that does; a task that has to be made anew goes to the least loaded rank,
which is a spare as long as there is one. Live backups stay; what is missing is filled up, on other hosts as far as
there are any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from taskgraph.config import Placement
from taskgraph.ids import Host, Rank
from taskgraph.plan.layout import Layout
from taskgraph.plan.load import Load


def relocate(
    before: Layout,
    host_of: Mapping[Rank, Host],
    holders: Sequence[Set[Host]],
    backups: int,
    placement: Placement,
) -> Layout:
    """Lay the tasks out anew.

    Parameters
    ----------
    before
        The layout of the generation before.
    host_of
        The live ranks.
    holders
        By task: the live hosts that hold what it resumes from; none: it is made anew.
    backups
        Wanted for each task; fewer where there are too few ranks.
    """
    load = Counter(rank for replicas in before.replicas for rank in replicas if rank in host_of)
    primaries = []
    for replicas, holding in zip(before.replicas, holders, strict=True):
        primary = new_primary(replicas, host_of, holding, load)
        if primary not in replicas:
            load[primary] += 1
        primaries.append(primary)
    working = frozenset(primaries) if placement == "dedicated" else frozenset()
    idle = Load((rank for rank in host_of if rank not in working), load)
    after = []
    for replicas, primary in zip(before.replicas, primaries, strict=True):
        kept = _kept(replicas, primary, host_of)
        while len(kept) <= backups and len(kept) < len(host_of):
            rank = _next_backup(kept, host_of, idle, load)
            kept.append(rank)
            load[rank] += 1
            if rank in idle.of:
                idle.add(rank)
        after.append(tuple(kept[: backups + 1]))
    return Layout(tuple(after))


def new_primary(
    replicas: Sequence[Rank], host_of: Mapping[Rank, Host], holding: Set[Host], load: Mapping[Rank, int]
) -> Rank:
    """Choose who runs a task that `replicas` had, the primary first."""
    for rank in replicas:
        if rank in host_of and (not holding or host_of[rank] in holding):
            return rank
    candidates = [rank for rank in host_of if not holding or host_of[rank] in holding]
    return min(candidates, key=lambda rank: (load[rank], rank))


def _kept(replicas: Sequence[Rank], primary: Rank, host_of: Mapping[Rank, Host]) -> list[Rank]:
    """Return the primary and those replicas that live and lie apart."""
    kept = [primary]
    used = {host_of[primary]}
    for rank in replicas:
        if rank in host_of and host_of[rank] not in used:
            kept.append(rank)
            used.add(host_of[rank])
    return kept


def _next_backup(kept: Sequence[Rank], host_of: Mapping[Rank, Host], idle: Load, load: Mapping[Rank, int]) -> Rank:
    """Choose one more backup: on a host not used yet, then one that runs no tasks, then the least loaded."""
    used = {host_of[rank] for rank in kept}
    best = idle.nearest(kept[0], host_of.__getitem__, used, set(kept))
    if best is not None:
        return best
    free = (rank for rank in host_of if rank not in kept)
    return min(free, key=lambda r: (host_of[r] in used, r not in idle.of, load[r], r < kept[0], r))
