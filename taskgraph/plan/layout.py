"""Who runs what: the map task -> [primary, backup, ...], made from the hosts of the ranks.

Replicas of one task go to different hosts as far as there are any, then to different ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from taskgraph.config import Placement
from taskgraph.ids import Host, Rank, TaskId
from taskgraph.plan.load import Load


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
    load = Load(candidates)
    replicas = []
    for task in range(num_tasks):
        # Neighboring tasks lie close: blocks where a rank has several, spread out where it has less than one.
        primary = task * workers // num_tasks
        chosen = _backups(primary, hosts, backups, load)
        for rank in chosen:
            load.add(rank)
        replicas.append((primary, *chosen))
    return Layout(tuple(replicas))


def _backups(primary: Rank, hosts: Sequence[Host], wanted: int, load: Load) -> list[Rank]:
    """Pick the least loaded ranks, nearest after the primary, those of hosts not used yet first."""
    chosen: list[Rank] = []
    used = {hosts[primary]}
    while len(chosen) < wanted:
        best = _best(primary, hosts, used, {primary, *chosen}, load)
        if best is None:
            break
        chosen.append(best)
        used.add(hosts[best])
    return chosen


def _best(primary: Rank, hosts: Sequence[Host], used: Set[Host], taken: Set[Rank], load: Load) -> Rank | None:
    best = load.nearest(primary, hosts.__getitem__, used, taken)
    if best is not None:
        return best
    free = (rank for rank in load.of if rank not in taken)
    return min(free, key=lambda r: (hosts[r] in used, load.of[r], (r - primary) % len(hosts)), default=None)
