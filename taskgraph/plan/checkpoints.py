"""Which checkpoint to go on from, which to remove, and when to write the next.

Rule 1: a checkpoint without a valid manifest does not exist. Rule 2: those of a job that has finished count no more.
Rule 3: only the last run that began afresh counts, and of the runs that continued it the last; an earlier one, cut
off, may still be writing. Rule 4: what was written in a history that was given up does not count
(`taskgraph.plan.lineage`). Rule 5: one is removed only once two newer ones are complete, and only by the run that wrote
the newest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Set

from taskgraph.ids import Epoch
from taskgraph.plan.lineage import is_valid
from taskgraph.plan.manifest import Manifest, Name

KEEP = 2
"""Complete checkpoints that are kept."""


def in_order(manifests: Iterable[Manifest], finished: Set[str]) -> list[Manifest]:
    """Return the checkpoints that an unfinished job may go on from, the best first.

    Parameters
    ----------
    manifests
        All of one job.
    finished
        The origins of jobs that have finished.
    """
    unfinished = [manifest for manifest in manifests if manifest.origin not in finished]
    runs: dict[tuple[float, str, int, str], list[Manifest]] = {}
    for one in unfinished:
        runs.setdefault((one.started, one.origin, one.attempt, one.name.run), []).append(one)
    ordered = []
    for _, of_run in sorted(runs.items(), reverse=True):
        history = max(of_run, key=lambda one: one.name.generation).history
        true = [one for one in of_run if is_valid(one.name.boundary, one.name.generation, history)]
        ordered += sorted(true, key=lambda one: (one.name.boundary, one.name.generation), reverse=True)
    return ordered


def to_remove(there: Iterable[Name], complete: Iterable[Manifest], run: str, busy: Name | None) -> list[Name]:
    """Return the checkpoints, complete or not, that `run` may remove.

    Parameters
    ----------
    there
        All that there are of the job, in whatever state.
    complete
        Those that are complete.
    busy
        The one that is being written.
    """
    ordered = in_order(complete, frozenset())
    if len(ordered) < KEEP or ordered[0].name.run != run:
        return []
    kept = {one.name for one in ordered[:KEEP]}
    return [name for name in there if name not in kept and name != busy]


def next_boundary(at: Epoch, ahead: int, every: int) -> Epoch:
    """Return the first boundary of the grid that lies more than `ahead` epochs after `at`."""
    return (at + ahead) // every * every + every


def interval_s(cost_s: float, mtbf_s: float) -> float:
    """Return the time between two checkpoints that loses least (Daly 2006, after Young), in seconds.

    Parameters
    ----------
    cost_s
        How long writing one takes.
    mtbf_s
        The expected time between failures.
    """
    if cost_s >= 2 * mtbf_s:
        return mtbf_s
    share = cost_s / (2 * mtbf_s)
    return max(math.sqrt(2 * cost_s * mtbf_s) * (1 + math.sqrt(share) / 3 + share / 9) - cost_s, cost_s)


def few(numbers: Collection[int]) -> str:
    """Name some of many numbers."""
    shown = ", ".join(map(str, sorted(numbers)[:5]))
    return f"{shown} and {len(numbers) - 5} more" if len(numbers) > 5 else shown
