"""When the graph of an epoch is known as a whole, at the root of the tree. Pure.

Only what changed travels: a task whose composition is that of the epoch before sends nothing. So the root may check an
epoch when something changed in it and every rank is known to have composed it: because it finished the epoch, or
because it said so while it waited for a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from taskgraph.ids import Epoch, Rank, TaskId
from taskgraph.program.graph import TaskGraph


class Declarations:
    """What the tasks of the job have composed, as far as the root has heard.

    Attributes
    ----------
    are_unchecked
        Whether something changed and no graph with it was returned yet.
    """

    def __init__(self, ranks: Iterable[Rank]) -> None:
        self._ranks = frozenset(ranks)
        self._graphs: dict[TaskId, TaskGraph] = {}
        self._composed: set[Rank] = set()
        self._epoch: Epoch = 0
        self.are_unchecked = False

    def declared(self, epoch: Epoch, graphs: Mapping[TaskId, TaskGraph]) -> None:
        """Take the compositions of some tasks that changed in `epoch`."""
        self._enter(epoch)
        self._graphs.update(graphs)
        self.are_unchecked = True

    def composed(self, epoch: Epoch, rank: Rank) -> Mapping[TaskId, TaskGraph] | None:
        """Note that `rank` has composed `epoch`; return the graph if it is complete and was not checked yet.

        The answer to a question about an epoch that is over says nothing of the one that runs.
        """
        if epoch < self._epoch:
            return None
        self._enter(epoch)
        self._composed.add(rank)
        return self._take() if self._composed >= self._ranks else None

    def finished(self, epoch: Epoch) -> Mapping[TaskId, TaskGraph] | None:
        """Note that every rank has finished `epoch`; return its graph if it changed and was not checked yet."""
        self._enter(epoch)
        return self._take()

    def _enter(self, epoch: Epoch) -> None:
        if epoch > self._epoch:
            self._epoch = epoch
            self._composed = set()

    def _take(self) -> Mapping[TaskId, TaskGraph] | None:
        if not self.are_unchecked:
            return None
        self.are_unchecked = False
        return dict(self._graphs)
