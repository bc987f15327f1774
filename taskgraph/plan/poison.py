"""When a job ends because a task kills whoever runs it: each death would cost another rank, and change nothing."""

from __future__ import annotations

from collections.abc import Iterable

from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Tombstone, Work

DEATHS = 3
"""The job ends after so many deaths of ranks that ran one task's code in one epoch."""


def poisoned(tombstones: Iterable[Tombstone]) -> Ending | None:
    """Return the end of the job if its ranks die of a task, else None.

    Parameters
    ----------
    tombstones
        Of every rank that is dead. Those of the same event count once.
    """
    deaths: dict[Work, list[Tombstone]] = {}
    for tombstone in dict.fromkeys(tombstones):
        if tombstone.working is not None:
            deaths.setdefault(tombstone.working, []).append(tombstone)
    for work, of_it in deaths.items():
        if len(of_it) >= DEATHS:
            return _ending(work, of_it)
    return None


def _ending(work: Work, deaths: list[Tombstone]) -> Ending:
    latest = max(deaths, key=lambda tombstone: tombstone.at)
    ranks = ", ".join(str(rank) for tombstone in deaths for rank in tombstone.ranks)
    message = (
        f"task {work.task} is poisoned: ranks {ranks} died one after the other, each while it ran code of this task in "
        f"epoch {work.epoch}, the last so: {latest.detail}; the job ends rather than lose every rank: with "
        "PYTHONFAULTHANDLER=1 in the environment a crash shows where"
    )
    return Ending(status=1, message=message, task=work.task, epoch=work.epoch)
