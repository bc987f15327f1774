"""At which boundaries snapshots are taken: one grid for the whole job.

With a grid for each task there would be failures after which no boundary is held of every task.
"""

from __future__ import annotations

from taskgraph.ids import Epoch, TaskId

SLOTS = 3
"""Snapshots of a task that a holder keeps at most, the safe one included."""


def due(boundary: Epoch, every: int, tasks: tuple[TaskId, ...]) -> tuple[TaskId, ...]:
    """Return those of `tasks` that take a snapshot at `boundary`: all or none."""
    return tasks if boundary % every == 0 else ()


def kept(safe: Epoch, boundary: Epoch, every: int) -> set[Epoch]:
    """Return the boundaries up to `boundary` whose snapshots are kept where that of `safe` is the oldest needed."""
    return {safe, *range(-(-safe // every) * every, boundary + 1, every)}


def has_room(kept: int) -> bool:
    """Tell whether a primary that keeps `kept` snapshots may take another; otherwise it waits for a commit."""
    return kept < SLOTS
