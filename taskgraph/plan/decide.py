"""From what the live hosts hold to the next generation, or to the end of the job."""

from __future__ import annotations

from collections.abc import Mapping, Set

from taskgraph.config import Placement
from taskgraph.ids import Host, Rank
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.holdings import Holdings
from taskgraph.plan.lineage import History
from taskgraph.plan.manifest import Name
from taskgraph.plan.relocation import relocate
from taskgraph.plan.resume import Resume, resume


def decide(
    before: Decision,
    dead: Set[Rank],
    holdings: Mapping[Host, Holdings],
    history: History,
    *,
    backups: int,
    placement: Placement,
    by: str,
    checkpoint: Name | None = None,
) -> Decision | Ending:
    """Propose the generation after `before`.

    Parameters
    ----------
    dead
        Every rank that has a tombstone.
    holdings
        Of every live host.
    history
        The resume boundaries of all generations up to `before`.
    by
        The unit that decides.
    checkpoint
        The newest that is complete, as far as the unit has heard; None: there is none.

    Returns
    -------
    Decision or Ending
        The end, where memory holds no cut any more and there is no checkpoint.
    """
    host_of = {rank: host for rank, host in before.host_of.items() if rank not in dead}
    live = {host: holdings[host] for host in dict.fromkeys(host_of.values())}
    found = resume(before, live, history, checkpoint)
    if found.boundary is None:
        return _lost(before, found, backups)
    newly_dead = tuple(rank for rank in before.live if rank in dead)
    return Decision(
        generation=before.generation + 1,
        host_of=host_of,
        layout=relocate(before.layout, host_of, found.holders, backups, placement),
        boundary=found.boundary,
        holders=found.holders,
        rebuild=found.rebuild,
        checkpoint=found.checkpoint if found.rebuild else None,
        safe=found.safe,
        delivered=found.delivered,
        first=before.first,
        stateless=before.stateless,
        end=found.end,
        undoes=found.undoes,
        dead=newly_dead,
        gone=(*before.gone, *newly_dead),
        why=found.why,
        by=by,
    )


def _lost(before: Decision, found: Resume, backups: int) -> Ending:
    """Name the task, its dead ranks, and the option that would have saved it."""
    task = (found.lost or found.missing)[0]
    ranks = before.layout.replicas[task]
    copies = f"backups={backups}" if len(ranks) > backups else f"backups={backups} (room was for {len(ranks) - 1})"
    message = (
        f"all copies of task {task} are lost: rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} held it "
        f"with {copies}, and no complete checkpoint is there to go back to ({found.why}); "
        f"backups={backups + 1} on that many hosts more, or checkpoint=..., would have saved the job"
    )
    return Ending(status=1, message=message, task=task, lost=True)
