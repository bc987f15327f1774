"""What a run begins with: the newest checkpoint that is whole, or nothing. Each rank verifies the files of its own."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.config import Config
from taskgraph.errors import CheckpointError
from taskgraph.ids import Host
from taskgraph.plan.decision import Decision, start
from taskgraph.plan.layout import Layout
from taskgraph.plan.manifest import Manifest, Name
from taskgraph.plan.revival import Inherited
from taskgraph.run.checkpoints.candidates import (
    LIST_S,
    candidates,
    pass_over,
    refuse_where_required,
    verified,
    within,
)
from taskgraph.run.checkpoints.shelf import Beginning
from taskgraph.run.start.first_decision import first_decision
from taskgraph.run.start.site import HERE, ROOT, Site, together

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

log = logging.getLogger(__name__)

T = TypeVar("T")


def look(
    communicator: Intracomm, config: Config, site: Site, layout: Layout, inherited: Mapping[Host, Inherited]
) -> Beginning:
    """Find what to go on from. A checkpoint that turns out damaged is told, and the one before is tried.

    Raises
    ------
    StartFailed
        There is none and there has to be one, it is of another number of tasks, or the store cannot be read.
    """
    store, choices = together(communicator, lambda: _choices(config, site))
    if store is not None:
        see_that_it_is_shared(communicator, site, store)
    attempt = 0 if site.attempt is None else site.attempt.attempt
    begun = communicator.allgather(site.attempt is not None and site.attempt.has_begun_before())
    host_of = dict(enumerate(site.hosts))

    def decide(checkpoint: Name | None) -> Decision:
        return first_decision(config, attempt, host_of, layout, inherited, checkpoint, had_begun=any(begun))

    manifests: list[Manifest] = communicator.bcast(choices, root=ROOT)
    useless: tuple[Name, ...] = ()
    for manifest in manifests:
        decision = together(communicator, partial(decide, manifest.name))
        if decision.checkpoint is not None and store is not None:
            mine = layout.primaries_of(site.rank)
            answers = communicator.allgather(verified(store, manifest, mine, site.rank == ROOT))
            problem = next((answer for answer in answers if isinstance(answer, str)), None)
            if problem is not None:
                useless += (manifest.name,)
                if site.rank == ROOT:
                    pass_over(store, manifest.name, problem)
                continue
            delivered = min(answer for answer in answers if isinstance(answer, int))
            decision = replace(decision, delivered=min(delivered, decision.boundary))
        return Beginning(
            decision=decision,
            run=site.run,
            newest=manifest.name,
            useless=useless,
            origin=manifest.origin,
            started=manifest.started,
            attempt=manifest.attempt + 1,
        )
    if store is not None and attempt == 0:
        together(communicator, lambda: refuse_where_required(store, config))
    decision = together(communicator, lambda: decide(None))
    started = communicator.bcast(time.time(), root=ROOT)
    return Beginning(decision=decision, run=site.run, origin=site.run, started=started, attempt=1)


def look_alone(config: Config, layout: Layout) -> Beginning:
    """Do as `look` does, for a job in one process.

    Raises
    ------
    TaskgraphError
        As `StartFailed` there.
    """
    run = secrets.token_hex(8)
    if config.checkpoint is not None:
        store = CheckpointStore(config.checkpoint, config.name)
        for manifest in candidates(store, config):
            delivered = verified(store, manifest, tuple(range(config.num_tasks)), True)
            if isinstance(delivered, str):
                pass_over(store, manifest.name, delivered)
                continue
            return Beginning(
                decision=start({0: HERE}, layout, checkpoint=manifest.name, delivered=delivered),
                run=run,
                newest=manifest.name,
                origin=manifest.origin,
                started=manifest.started,
                attempt=manifest.attempt + 1,
            )
        refuse_where_required(store, config)
    return Beginning(decision=start({0: HERE}, layout), run=run, origin=run, started=time.time(), attempt=1)


def _choices(config: Config, site: Site) -> tuple[CheckpointStore | None, list[Manifest]]:
    if config.checkpoint is None:
        return None, []
    store = CheckpointStore(config.checkpoint, config.name)
    again = site.run if site.attempt is not None and site.attempt.attempt else None
    return store, candidates(store, config, again) if site.rank == ROOT else []


def see_that_it_is_shared(communicator: Intracomm, site: Site, store: CheckpointStore) -> None:
    """Warn where ranks do not see what the root writes: there would never be a complete checkpoint."""

    def tried(step: Callable[[], T]) -> T | None:
        try:
            return within(LIST_S, step, f"{store.url} has not answered")
        except CheckpointError as error:
            log.warning("NO CHECKPOINTS for now: %s. The job goes on", error)
            return None

    def leave() -> bool:
        store.leave_mark(site.run)
        return True

    if not communicator.bcast(site.rank != ROOT or tried(leave), root=ROOT):
        return
    looks = site.rank == site.local[0]
    sees = communicator.allgather(tried(lambda: store.sees_mark(site.run)) if looks else None)
    blind = [host for host, seen in zip(site.hosts, sees, strict=True) if seen is False]
    if site.rank == ROOT:
        tried(lambda: store.remove_mark(site.run))
        if blind:
            log.warning(
                "THERE WILL BE NO CHECKPOINTS: hosts %s do not see what rank %d writes to %s; it has to be one place "
                "for all ranks",
                ", ".join(blind),
                ROOT,
                store.url,
            )
