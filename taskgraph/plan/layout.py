"""Who runs what: the map task -> [primary, backup, ...], made from the hosts of the ranks.

Replicas of one task go to different hosts as far as there are any, then to different ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from taskgraph.config import Placement
from taskgraph.ids import Host, Rank, TaskId


@dataclass(frozen=True, slots=True)
class Layout:
    """The replicas of every task, the primary first.

    Attributes
    ----------
    replicas
        By task id.
    """

    replicas: tuple[tuple[Rank, ...], ...]
    _primaries: Mapping[Rank, tuple[TaskId, ...]] = field(init=False, repr=False, compare=False)
    _backups: Mapping[Rank, tuple[TaskId, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        primaries: dict[Rank, tuple[TaskId, ...]] = {}
        backups: dict[Rank, tuple[TaskId, ...]] = {}
        for task, (primary, *others) in enumerate(self.replicas):
            primaries[primary] = (*primaries.get(primary, ()), task)
            for rank in others:
                backups[rank] = (*backups.get(rank, ()), task)
        object.__setattr__(self, "_primaries", primaries)
        object.__setattr__(self, "_backups", backups)

    def primary(self, task: TaskId) -> Rank:
        """Return the rank that runs a task."""
        return self.replicas[task][0]

    def primaries_of(self, rank: Rank) -> tuple[TaskId, ...]:
        """Return the tasks that a rank runs."""
        return self._primaries.get(rank, ())

    def backups_of(self, rank: Rank) -> tuple[TaskId, ...]:
        """Return the tasks that a rank is a backup of."""
        return self._backups.get(rank, ())

    def fewest_backups(self) -> int:
        """Return how many backups every task has at least."""
        return min(len(ranks) for ranks in self.replicas) - 1


def assign(num_tasks: int, hosts: Sequence[Host], backups: int, placement: Placement) -> Layout:
    """Lay out the tasks of a new job.

    Parameters
    ----------
    hosts
        The host of each rank, by rank.
    backups
        Wanted for each task; where there are too few ranks, fewer are given.
    placement
        ``"buddy"``: every rank runs tasks and backs up others'. ``"dedicated"``: the first ``N // (1 + backups)``
        ranks run tasks, the others wait as backups.
    """
    ranks = range(len(hosts))
    workers = len(hosts)
    if placement == "dedicated":
        workers = max(1, len(hosts) // (1 + backups))
    candidates = ranks if placement == "buddy" or workers == len(hosts) else ranks[workers:]
    load: Counter[Rank] = Counter()
    replicas = []
    for task in range(num_tasks):
        # Neighbouring tasks lie close: blocks where a rank has several, spread out where it has less than one.
        primary = task * workers // num_tasks
        backup_ranks = _backups(primary, candidates, hosts, backups, load)
        load.update(backup_ranks)
        replicas.append((primary, *backup_ranks))
    return Layout(tuple(replicas))


def _backups(
    primary: Rank, candidates: Sequence[Rank], hosts: Sequence[Host], wanted: int, load: Counter[Rank]
) -> tuple[Rank, ...]:
    """Pick the least loaded ranks, nearest after the primary, those of hosts not used yet first."""
    chosen: list[Rank] = []
    used = {hosts[primary]}
    free = [rank for rank in candidates if rank != primary]
    while free and len(chosen) < wanted:
        best = min(free, key=lambda rank: (hosts[rank] in used, load[rank], (rank - primary) % len(hosts)))
        free.remove(best)
        chosen.append(best)
        used.add(hosts[best])
    return tuple(chosen)
