"""How many replicas each rank has, kept so that the least loaded is found at once: a job may have 10,000 ranks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Set

from taskgraph.ids import Host, Rank


class Load:
    """The load of some ranks.

    Parameters
    ----------
    candidates
        The ranks, ascending.
    before
        What they have already.

    Attributes
    ----------
    of
        By rank.
    """

    def __init__(self, candidates: Iterable[Rank], before: Mapping[Rank, int] | None = None) -> None:
        self.of = {rank: before[rank] if before else 0 for rank in candidates}
        self._least: list[Rank] = []
        self._find_least()

    def add(self, rank: Rank) -> None:
        """Count one replica more on a rank."""
        at = bisect_left(self._least, rank)
        if self._least[at : at + 1] == [rank]:
            del self._least[at]
        self.of[rank] += 1
        if not self._least:
            self._find_least()

    def _find_least(self) -> None:
        fewest = min(self.of.values(), default=0)
        self._least = [rank for rank, count in self.of.items() if count == fewest]

    def nearest(self, start: Rank, host_of: Callable[[Rank], Host], used: Set[Host], taken: Set[Rank]) -> Rank | None:
        """Return, of the least loaded, the nearest after `start` on a host not used; None: all are on used ones."""
        first = bisect_left(self._least, start)
        for at in range(first, first + len(self._least)):
            rank = self._least[at % len(self._least)]
            if rank not in taken and host_of(rank) not in used:
                return rank
        return None
