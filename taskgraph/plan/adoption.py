"""What a rank has to do to enter a generation, as far as that follows from the decision and the host's slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from taskgraph.ids import Epoch, Rank, TaskId
from taskgraph.plan.decision import Decision
from taskgraph.plan.holdings import Held
from taskgraph.plan.lineage import History, is_valid
from taskgraph.plan.orders import Overtaken, Restore

Kept = Mapping[tuple[TaskId, Epoch], Held]
"""The valid snapshots of a rank's own tasks on its host: one of each task and boundary, the last written."""


def valid_of(tasks: Sequence[TaskId], held: Iterable[Held], history: History) -> dict[tuple[TaskId, Epoch], Held]:
    """Choose from the whole snapshots on a host those of `tasks` that belong to the history still true."""
    own = [slot for slot in held if slot.task in tasks and is_valid(slot.boundary, slot.generation, history)]
    return {(slot.task, slot.boundary): slot for slot in sorted(own, key=lambda slot: slot.generation)}


def to_restore(decision: Decision, rank: Rank, kept: Kept) -> Restore | Overtaken:
    """Say what a rank becomes: from which slots, what by `init`, and what it is a backup of."""
    slots = []
    rebuild = []
    for task in decision.layout.primaries_of(rank):
        if task in decision.rebuild:
            rebuild.append(task)
            continue
        slot = kept.get((task, decision.boundary))
        if slot is None:
            return Overtaken(Held(task, decision.boundary, -1))
        slots.append(slot)
    backups = decision.layout.backups_of(rank)
    return Restore(decision.boundary, tuple(slots), tuple(rebuild), backups, decision.checkpoint)


def ends_with(decision: Decision, epochs: int | None, no_end: int) -> int:
    """Return the status of the job if it ends at the boundary resumed from, else `no_end`."""
    if decision.end == no_end and epochs is not None and decision.boundary >= epochs:
        return 0
    return decision.end


def to_be_told(decision: Decision) -> tuple[Rank, ...]:
    """Return the ranks that the root tells they are no longer listed.

    One may still be alive, cut off from etcd and waiting.
    """
    return decision.gone
