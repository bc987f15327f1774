"""Where a job that is launched again goes on: from what the hosts still hold of the launches before.

Rule 1: of several histories, the one in the snapshot of the highest generation counts: a later generation that left no
snapshot committed nothing beyond it. Rule 2: a job of which nothing is left starts anew only where nothing can have
been committed. Rule 3: a checkpoint that is newer than the best that memory holds rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskgraph.config import Placement
from taskgraph.ids import Epoch, Generation, Host, Rank
from taskgraph.plan.decision import Decision, start
from taskgraph.plan.holdings import Held, Holdings, Known
from taskgraph.plan.layout import Layout
from taskgraph.plan.relaunch import first_generation
from taskgraph.plan.relocation import relocate
from taskgraph.plan.resume import resume

Pairs = tuple[tuple[Generation, Epoch], ...]


@dataclass(frozen=True, slots=True)
class Inherited:
    """What one host holds of the launches before.

    Attributes
    ----------
    slots, known
        As it would publish them.
    generation
        The newest generation that wrote one of its snapshots; -1: none.
    history
        The resume boundaries recorded in that snapshot.
    """

    slots: tuple[Held, ...]
    known: Known
    generation: Generation = -1
    history: Pairs = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no way back, and why."""

    why: str


def revive(
    attempt: int,
    host_of: Mapping[Rank, Host],
    layout: Layout,
    inherited: Mapping[Host, Inherited],
    *,
    had_begun: bool,
    backups: int,
    placement: Placement,
    checkpoint: Epoch | None = None,
) -> Decision | Lost | None:
    """Return the first decision of a launch that follows others.

    Parameters
    ----------
    attempt
        Its number, at least 1.
    host_of, layout
        The ranks that there are now, and how a job that starts anew would be laid out on them.
    inherited
        What there is of each host of these; hosts that have nothing are left out.
    had_begun
        Whether an earlier launch may have committed something.
    checkpoint
        The boundary of the newest complete one; None: there is none.

    Returns
    -------
    Decision, Lost or None
        None: start as the first launch did, from the checkpoint if there is one.
    """
    if not inherited:
        return _without_memory(had_begun, checkpoint, "no host holds a snapshot of the launches before any more")
    history = max(inherited.values(), key=lambda some: some.generation).history
    before = _before(attempt, host_of, layout, history)
    holdings = {host: _holdings(host, inherited.get(host)) for host in before.ranks_of}
    found = resume(before, holdings, dict(history))
    if found.boundary is None:
        return _without_memory(True, checkpoint, found.why)
    if checkpoint is not None and found.boundary < checkpoint:
        return None
    return Decision(
        generation=first_generation(attempt),
        host_of=before.host_of,
        layout=relocate(layout, host_of, found.holders, backups, placement),
        boundary=found.boundary,
        holders=found.holders,
        rebuild=found.rebuild,
        safe=found.safe,
        delivered=found.delivered,
        end=found.end,
        undoes=found.undoes,
        earlier=history,
        why=found.why,
        by="start",
    )


def _without_memory(had_begun: bool, checkpoint: Epoch | None, why: str) -> Lost | None:
    return Lost(why) if had_begun and checkpoint is None else None


def _before(attempt: int, host_of: Mapping[Rank, Host], layout: Layout, history: Sequence[tuple[int, int]]) -> Decision:
    """Return a decision that stands for all that was: it claims no more than what its successors can show."""
    fresh = start(host_of, layout)
    return Decision(
        generation=first_generation(attempt) - 1,
        host_of=fresh.host_of,
        layout=layout,
        boundary=max(history)[1] if history else fresh.boundary,
        holders=fresh.holders,
        safe=fresh.safe,
        delivered=fresh.delivered,
    )


def _holdings(host: Host, inherited: Inherited | None) -> Holdings:
    return Holdings(host, ()) if inherited is None else Holdings(host, inherited.slots, inherited.known)
