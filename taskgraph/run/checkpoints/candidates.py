"""The checkpoints that a run may go on from: what the store has, the best first, and whether it is whole.

The store may never answer, so each question to it has a time limit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.config import Config
from taskgraph.errors import CheckpointDamaged, CheckpointError, UsageError
from taskgraph.ids import Epoch, TaskId
from taskgraph.plan.checkpoints import in_order
from taskgraph.plan.manifest import Manifest, Name
from taskgraph.plan.relaunch import is_successor

log = logging.getLogger(__name__)

T = TypeVar("T")

LIST_S = 60.0
"""How long the store may take to say what it has, in seconds."""
_SLOWEST = 1 << 20
"""Bytes a second that are read of it at least."""


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
    complete, useless = within(LIST_S, lambda: _listed(store), f"{store.url} has not answered")
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

    limit_s = LIST_S + sum(manifest.sizes[task] for task in tasks) / _SLOWEST
    try:
        return within(limit_s, read, f"{store.url} has not given the files of {manifest.name}")
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


def within(limit_s: float, function: Callable[[], T], complaint: str) -> T:
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
