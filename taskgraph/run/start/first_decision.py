"""The decision that a launch begins with: from a checkpoint, by `init`, or what is left of the launches before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from taskgraph.config import Config
from taskgraph.errors import TaskgraphError
from taskgraph.ids import Host, Rank
from taskgraph.plan.decision import Decision, start
from taskgraph.plan.layout import Layout
from taskgraph.plan.manifest import Name
from taskgraph.plan.relaunch import first_generation
from taskgraph.plan.revival import Inherited, Lost, revive


def first_decision(
    config: Config,
    attempt: int,
    host_of: Mapping[Rank, Host],
    layout: Layout,
    inherited: Mapping[Host, Inherited],
    checkpoint: Name | None,
    *,
    had_begun: bool,
) -> Decision:
    """Return the decision that the ranks begin with, the same on each.

    Parameters
    ----------
    attempt
        How many launches of the run there were before.
    checkpoint
        The newest that is complete; None: there is none.
    had_begun
        Whether an earlier launch may have committed something.

    Raises
    ------
    TaskgraphError
        The job was launched again, and nothing is left to go on from.
    """
    fresh = start(host_of, layout, checkpoint=checkpoint)
    if attempt == 0:
        return fresh
    found = revive(
        attempt,
        host_of,
        layout,
        inherited,
        had_begun=had_begun,
        backups=config.backups,
        placement=config.placement,
        checkpoint=None if checkpoint is None else checkpoint.boundary,
    )
    if isinstance(found, Lost):
        raise TaskgraphError(
            f"{found.why}, and there is no complete checkpoint: the job cannot go on after its launcher was lost; "
            f"backups={config.backups + 1} on that many hosts more, or checkpoint=..., would have saved it"
        )
    return found or replace(fresh, generation=first_generation(attempt))
