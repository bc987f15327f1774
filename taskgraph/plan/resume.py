"""Where to go on from after a failure: the newest boundary that every task has, and why.

Rule 1: only snapshots of the history that is still true count. Rule 2: until a boundary later than the first is safe,
the first counts as held for every task: `init`, or the checkpoint that the job started from, can make it again. Rule 3:
a task is lost when no host of its current layout is live, even if another host still has an older snapshot: whoever
knew what was committed since may be dead. Then, or where the boundary lies below the previous resume boundary, resuming
may undo commits, and says so. Rule 4: a task that protects nothing is held everywhere, but only up to a boundary whose
commit somebody heard of: at a later one the job may have ended, with nobody left who knows. Rule 5: a complete
checkpoint holds its boundary, which was safe, for every task, whoever is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from taskgraph.ids import Epoch, Host, TaskId
from taskgraph.plan.checkpoints import few
from taskgraph.plan.decision import Decision
from taskgraph.plan.holdings import NO_END, Held, Holdings, Known
from taskgraph.plan.lineage import History, is_valid, still_true
from taskgraph.plan.manifest import Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where to go on from.

    Attributes
    ----------
    boundary
        None: no cut is left in memory.
    holders, rebuild, checkpoint, safe, delivered, end, undoes
        As in `Decision`.
    lost
        Tasks all of whose holders may be gone.
    missing
        Where there is no cut: tasks that stand in its way.
    why
        For the log, the command line and test failures.
    """

    boundary: Epoch | None
    holders: tuple[frozenset[Host], ...] = ()
    rebuild: tuple[TaskId, ...] = ()
    checkpoint: Name | None = None
    safe: Epoch
    delivered: Epoch
    end: int = NO_END
    undoes: bool = False
    lost: tuple[TaskId, ...] = ()
    missing: tuple[TaskId, ...] = ()
    why: str


def is_lost(layout_hosts: Set[Host], live: Set[Host]) -> bool:
    """Tell whether all hosts that were to hold a task are gone."""
    return not layout_hosts & live


def first_is_held(safe: Epoch, first: Epoch) -> bool:
    """Tell whether the boundary that the job started from counts as held for every task."""
    return safe <= first


def resume(
    before: Decision, holdings: Mapping[Host, Holdings], history: History, checkpoint: Name | None = None
) -> Resume:
    """Name the boundary to go on from, after what all live hosts have published.

    Parameters
    ----------
    checkpoint
        The newest that is complete.
    """
    if checkpoint is not None and not counts(checkpoint, history):
        checkpoint = None
    safe, delivered = _committed(before, holdings, history)
    if checkpoint is not None:
        safe = max(safe, checkpoint.boundary)
    held = _held(before, holdings, history)
    lost = tuple(task for task in range(len(held)) if is_lost(before.hosts_of(task), holdings.keys()))
    cuts = _Cuts(before, held, safe)
    boundary = newer(cuts.newest(safe), checkpoint)
    if boundary is None:
        return _no_cut(held, cuts.candidates, lost, safe, delivered)
    holders = tuple(frozenset(of_task.get(boundary, {})) for of_task in held)
    rebuild = tuple(task for task, some in enumerate(holders) if not some)
    # What a task that protects nothing took along may have been committed.
    beyond = cuts.newest(max(cuts.candidates)) != boundary
    undoes = beyond or may_undo(boundary, safe, before, [task for task in lost if task not in before.stateless])
    source = checkpoint if checkpoint is not None and checkpoint.boundary == boundary else None
    why = f"boundary {boundary} is held of all {len(held)} tasks" + _exceptions(rebuild, source, lost, undoes)
    return Resume(
        boundary=boundary,
        holders=holders,
        rebuild=rebuild,
        checkpoint=source,
        safe=min(safe, boundary),
        delivered=min(delivered, boundary),
        end=_end(boundary, held, holdings, history),
        undoes=undoes,
        lost=lost,
        why=why,
    )


class _Cuts:
    """The boundaries that may be held of every task."""

    def __init__(self, before: Decision, held: list[dict[Epoch, dict[Host, Held]]], safe: Epoch) -> None:
        self.candidates = {boundary for of_task in held for boundary in of_task} | {before.first, safe}
        self._before = before
        self._held = held
        self._from_start = first_is_held(safe, before.first)

    def has(self, task: TaskId, boundary: Epoch, limit: Epoch) -> bool:
        """Whether a task is held at a boundary; one that protects nothing is at those up to `limit`."""
        return (
            boundary in self._held[task]
            or (self._from_start and boundary == self._before.first)
            or (task in self._before.stateless and boundary <= limit)
        )

    def newest(self, limit: Epoch) -> Epoch | None:
        """Return the newest that all tasks are held at."""
        tasks = range(len(self._held))
        return max((b for b in self.candidates if all(self.has(task, b, limit) for task in tasks)), default=None)


def counts(checkpoint: Name, history: History) -> bool:
    """Tell whether a checkpoint is of the history that is still true."""
    return is_valid(checkpoint.boundary, checkpoint.generation, history)


def newer(cut: Epoch | None, checkpoint: Name | None) -> Epoch | None:
    """Return the newer boundary of what memory holds of every task and what a checkpoint does."""
    if checkpoint is None or (cut is not None and cut >= checkpoint.boundary):
        return cut
    return checkpoint.boundary


def may_undo(boundary: Epoch, safe: Epoch, before: Decision, lost: Iterable[TaskId]) -> bool:
    """Tell whether resuming from `boundary` may undo what was committed."""
    return any(True for _ in lost) or boundary < safe or boundary < before.boundary


def _committed(before: Decision, holdings: Mapping[Host, Holdings], history: History) -> tuple[Epoch, Epoch]:
    """Return what is known to be safe, and how far ``committed`` was called."""
    safe, delivered = before.safe, before.delivered
    for published in holdings.values():
        known = published.known
        safe = max(safe, still_true(known.safe, known.generation, history))
        delivered = max(delivered, still_true(known.delivered, known.generation, history))
    return safe, delivered


def _held(before: Decision, holdings: Mapping[Host, Holdings], history: History) -> list[dict[Epoch, dict[Host, Held]]]:
    """Return by task and boundary who holds a valid snapshot."""
    held: list[dict[Epoch, dict[Host, Held]]] = [{} for _ in before.layout.replicas]
    for host, published in holdings.items():
        for slot in published.slots:
            if is_valid(slot.boundary, slot.generation, history):
                held[slot.task].setdefault(slot.boundary, {})[host] = slot
    return held


def _end(
    boundary: Epoch,
    held: list[dict[Epoch, dict[Host, Held]]],
    holdings: Mapping[Host, Holdings],
    history: History,
) -> int:
    """Return the status of the job if it ends at `boundary`: a task asked for it, or a commit said so."""
    asked = [slot.end for of_task in held for slot in of_task.get(boundary, {}).values()]
    return max([NO_END, *asked, *(_said(published.known, boundary, history) for published in holdings.values())])


def _said(known: Known, boundary: Epoch, history: History) -> int:
    said = known.end_at == boundary and is_valid(boundary, known.generation, history)
    return known.end if said else NO_END


def _exceptions(rebuild: tuple[TaskId, ...], source: Name | None, lost: tuple[TaskId, ...], undoes: bool) -> str:
    parts = []
    if rebuild:
        parts.append(f"tasks {few(rebuild)} made anew" + (f" from checkpoint {source}" if source else ""))
    if lost:
        parts.append(f"no host that held tasks {few(lost)} is left")
    if undoes:
        parts.append("what was committed may be undone")
    return "".join(f"; {part}" for part in parts)


def _no_cut(
    held: list[dict[Epoch, dict[Host, Held]]],
    candidates: set[Epoch],
    lost: tuple[TaskId, ...],
    safe: Epoch,
    delivered: Epoch,
) -> Resume:
    """Say what stands in the way: tasks of which nothing at all is held, else those that lack the best boundary."""
    nothing = tuple(task for task, of_task in enumerate(held) if not of_task)
    best = max(candidates, key=lambda b: sum(b in of_task for of_task in held))
    lacking = nothing or tuple(task for task, of_task in enumerate(held) if best not in of_task)
    why = f"no boundary is held of every task; tasks {few(lacking)} stand in the way"
    return Resume(boundary=None, safe=safe, delivered=delivered, undoes=True, lost=lost, missing=lacking, why=why)
