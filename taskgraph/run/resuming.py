"""What a run begins with: the newest checkpoint that is whole, or nothing. Each rank verifies the files of its own."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.config import Config
from taskgraph.errors import CheckpointDamaged, CheckpointError, UsageError
from taskgraph.ids import Epoch, Host, TaskId
from taskgraph.plan.checkpoints import in_order
from taskgraph.plan.decision import Decision, start
from taskgraph.plan.layout import Layout
from taskgraph.plan.manifest import Manifest, Name
from taskgraph.plan.relaunch import is_successor
from taskgraph.plan.revival import Inherited
from taskgraph.run.reviving import first_decision
from taskgraph.run.startup import ROOT, Site, together

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

log = logging.getLogger(__name__)

T = TypeVar("T")

HERE = "localhost"
"""The host of a job in one process."""
_LIST_S = 60.0
"""How long the store may take to say what it has, in seconds."""
_SLOWEST = 1 << 20
"""Bytes a second that are read of it at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a run begins with, the same on every rank.

    Attributes
    ----------
    decision
        The first.
    run
        Identity of the run.
    newest
        The newest checkpoint, which later generations may have to go back to; None: there is none.
    useless
        Checkpoints that have a manifest and turned out damaged.
    origin, started, attempt
        As in `Manifest`, for the checkpoints of this run.
    """

    decision: Decision
    run: str
    newest: Name | None = None
    useless: tuple[Name, ...] = ()
    origin: str
    started: float
    attempt: int


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
        decision = together(communicator, lambda at=manifest.name: decide(at))  # type: ignore[misc]
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
            return _within(_LIST_S, step, f"{store.url} has not answered")
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


def refuse_where_required(store: CheckpointStore, config: Config) -> None:
    """Raise UsageError where there has to be a checkpoint, and there is none."""
    if config.resume == "require":
        raise UsageError(
            f"resume='require', but {store.url} has no complete checkpoint of an unfinished job {config.name!r}"
        )


def candidates(store: CheckpointStore, config: Config, again: str | None = None) -> list[Manifest]:
    """Return the checkpoints to try, the best first; tell of those that are no use.

    Parameters
    ----------
    again
        The run, where it was launched again: what its earlier launches have written is always gone on from.

    Raises
    ------
    UsageError
        The best is of another number of tasks.
    CheckpointError
        The store cannot be read.
    """
    if config.resume == "never" and again is None:
        return []
    complete, useless = _within(_LIST_S, lambda: _listed(store), f"{store.url} has not answered")
    if config.resume == "never" and again is not None:
        complete = [manifest for manifest in complete if is_successor(manifest.name.run, again)]
    newest = complete[0].name.boundary if complete else -1
    for name, why in sorted(useless, reverse=True):
        if name.boundary > newest:
            pass_over(store, name, why)
    if complete and complete[0].num_tasks != config.num_tasks:
        raise UsageError(
            f"num_tasks={config.num_tasks}, but checkpoint {complete[0].name} at {store.url} is of a job "
            f"{config.name!r} of {complete[0].num_tasks} tasks: run it with as many, give the job another name, or "
            "begin afresh with resume='never'"
        )
    return [manifest for manifest in complete if manifest.num_tasks == config.num_tasks]


def _listed(store: CheckpointStore) -> tuple[list[Manifest], list[tuple[Name, str]]]:
    """Return the complete checkpoints, the best first, and what is wrong with the others."""
    manifests, useless = [], []
    for name in store.names():
        try:
            manifest = store.manifest(name)
        except CheckpointDamaged as error:
            useless.append((name, str(error)))
            continue
        if manifest is None:
            useless.append((name, "it was not completed"))
        else:
            manifests.append(manifest)
    return in_order(manifests, store.finished()), useless


def verified(store: CheckpointStore, manifest: Manifest, tasks: tuple[TaskId, ...], with_sizes: bool) -> Epoch | str:
    """Read the files of tasks; return how far ``committed`` had been called for all of them, or what is wrong."""

    def read() -> Epoch:
        if with_sizes:
            store.check(manifest)
        return min(_verify(store, manifest, tasks), default=manifest.name.boundary)

    limit_s = _LIST_S + sum(manifest.sizes[task] for task in tasks) / _SLOWEST
    try:
        return _within(limit_s, read, f"{store.url} has not given the files of {manifest.name}")
    except CheckpointError as error:
        return str(error)


def _verify(store: CheckpointStore, manifest: Manifest, tasks: tuple[TaskId, ...]) -> Iterator[Epoch]:
    for task in tasks:
        with store.open_task(manifest, task) as reader:
            reader.verify()
            yield reader.head.delivered


def pass_over(store: CheckpointStore, name: Name, why: str) -> None:
    """Tell that a checkpoint is not used."""
    log.warning("checkpoint %s of job %r at %s is not used, but the one before: %s", name, store.job, store.url, why)


def _within(limit_s: float, function: Callable[[], T], complaint: str) -> T:
    """Call a function that may never return. Raises CheckpointError where it has not in time."""
    answer: Future[T] = Future()

    def call() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=call, name="taskgraph-checkpoint-look", daemon=True).start()
    try:
        return answer.result(limit_s)
    except TimeoutError:
        raise CheckpointError(f"{complaint} within {limit_s:.0f} s") from None
