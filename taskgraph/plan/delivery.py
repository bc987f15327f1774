"""How far ``committed`` has been called for each task of a rank.

``committed(e)`` is called for every epoch once a boundary above it is safe, in order, without a gap. After a failure
the calls go on from what the restored snapshot records, so some may be repeated and none is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from taskgraph.ids import Epoch, TaskId
from taskgraph.plan.commit import UNBOUNDED
from taskgraph.plan.orders import Committed


class Delivery:
    """The calls that one rank has made in one generation."""

    def __init__(self) -> None:
        self._upto: dict[TaskId, Epoch] = {}

    @property
    def lowest(self) -> Epoch:
        """All calls below it have returned, on every task."""
        return min(self._upto.values(), default=UNBOUNDED)

    def upto(self, task: TaskId) -> Epoch:
        """Return how far the calls of one task have got."""
        return self._upto[task]

    def restored(self, task: TaskId, recorded: Epoch, known_safe: Epoch) -> None:
        """Go on from a snapshot."""
        self._upto[task] = resumes_at(recorded, known_safe)

    def due(self, safe: Epoch) -> list[Committed]:
        """Return the calls that a safe boundary allows; they count as made."""
        calls = []
        for task, upto in self._upto.items():
            if upto < safe:
                calls.append(Committed(task, upto, safe))
                self._upto[task] = safe
        return calls

    def passed(self, safe: Epoch) -> None:
        """Note that all calls below have been made."""
        self._upto = dict.fromkeys(self._upto, safe)

    def exited(self, tasks: Iterable[TaskId], end: Epoch) -> None:
        """Count ``exit``, which follows the last call, as one more."""
        for task in tasks:
            self._upto[task] = end + 1


def resumes_at(recorded: Epoch, known_safe: Epoch) -> Epoch:
    """Return the first epoch to be called after a restore: the snapshot knows, the known safe boundary does not."""
    return recorded
