"""The decision that a launch begins with: everything made by `init`, or what is left of the launches before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from taskgraph.config import Config
from taskgraph.errors import TaskgraphError
from taskgraph.ids import Host
from taskgraph.plan.decision import Decision, start
from taskgraph.plan.layout import Layout
from taskgraph.plan.relaunch import first_generation
from taskgraph.plan.revival import Inherited, Lost, revive
from taskgraph.run.supervised import Supervised

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm


def first_decision(
    communicator: Intracomm,
    config: Config,
    attempt: Supervised | None,
    hosts: Sequence[Host],
    layout: Layout,
    inherited: Mapping[Host, Inherited],
) -> Decision:
    """Return the decision that the ranks begin with, the same on each.

    Raises
    ------
    TaskgraphError
        The job was launched again, and nothing is left to go on from.
    """
    host_of = dict(enumerate(hosts))
    fresh = start(host_of, layout)
    if attempt is None or attempt.attempt == 0:
        return fresh
    found = revive(
        attempt.attempt,
        host_of,
        layout,
        inherited,
        had_begun=any(communicator.allgather(attempt.has_begun_before())),
        backups=config.backups,
        placement=config.placement,
    )
    if isinstance(found, Lost):
        raise TaskgraphError(
            f"{found.why}, and there is no complete checkpoint: the job cannot go on after its launcher was lost; "
            f"backups={config.backups + 1} on that many hosts more, or checkpoint=..., would have saved it"
        )
    return found or replace(fresh, generation=first_generation(attempt.attempt))
