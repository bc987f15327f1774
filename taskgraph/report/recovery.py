"""The line for a failure that was survived."""

from __future__ import annotations

from taskgraph.plan.decision import Decision


def recovery(decision: Decision, took_s: float) -> str:
    """Return what to print, once, for ranks that were lost: which, where the job goes on, and how long that took."""
    lost = ", ".join(map(str, decision.dead))
    ranks = f"rank{'s' if len(decision.dead) > 1 else ''} {lost}"
    undone = "; what was committed after that is undone" if decision.undoes else ""
    return (
        f"taskgraph: {ranks} lost; {len(decision.live)} rank{'s' if len(decision.live) > 1 else ''} go on from epoch "
        f"{decision.boundary} as generation {decision.generation}, {1000 * took_s:.1f} ms after they were told{undone}"
    )
