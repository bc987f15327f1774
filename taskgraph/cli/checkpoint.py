"""``taskgraph checkpoint``: what checkpoints there are, whether they are whole, and what is in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from taskgraph.backends.checkpoint_store import CheckpointStore, jobs_at
from taskgraph.errors import CheckpointError, TaskgraphError
from taskgraph.plan.checkpoints import in_order
from taskgraph.plan.manifest import Manifest, Name

_job = click.option("--job", help="Of this job only.")


@click.group()
def checkpoint() -> None:
    """Look at the checkpoints at a URL: any that fsspec knows, or a path."""


@checkpoint.command("list")
@click.argument("url")
@_job
def list_(url: str, job: str | None) -> None:
    """List the checkpoints; a star marks the one that a job would go on from."""
    with _errors():
        stores = _stores(url, job)
        click.echo(f"{'':1} {'job':20} {'checkpoint':40} {'tasks':>6} {'bytes':>14} {'written':20} state")
        for store in stores:
            finished = store.finished()
            manifests = {name: _look(store, name) for name in sorted(store.names())}
            best = in_order([one for one in manifests.values() if isinstance(one, Manifest)], finished)[:1]
            for name, found in manifests.items():
                click.echo(_row(store.job, name, found, finished, bool(best) and best[0].name == name))


def _row(job: str, name: Name, found: Manifest | str, finished: set[str], is_best: bool) -> str:
    star = "*" if is_best else ""
    if isinstance(found, str):
        return f"{star:1} {job:20} {name!s:40} {'-':>6} {'-':>14} {'-':20} {found}"
    written = datetime.fromtimestamp(found.written, UTC).strftime("%Y-%m-%d %H:%M:%S")
    state = "complete, of a finished job" if found.origin in finished else "complete"
    return f"{star:1} {job:20} {name!s:40} {found.num_tasks:>6} {sum(found.sizes):>14} {written:20} {state}"


@checkpoint.command()
@click.argument("url")
@click.argument("name", required=False)
@_job
def verify(url: str, name: str | None, job: str | None) -> None:
    """Read all files, or those of one checkpoint; the status is 1 where one is damaged."""
    bad = 0
    with _errors():
        for store, one in _chosen(url, job, name):
            found = _look(store, one, thoroughly=True)
            said = f"{len(found.sizes)} tasks, all right" if isinstance(found, Manifest) else found
            bad += not isinstance(found, Manifest) and found != _INCOMPLETE
            click.echo(f"{store.job} {one}: {said}")
    sys.exit(bool(bad))


@checkpoint.command()
@click.argument("url")
@click.argument("name", required=False)
@_job
def show(url: str, name: str | None, job: str | None) -> None:
    """Show what the tasks of a checkpoint protect; without NAME, of all."""
    with _errors():
        for store, one in _chosen(url, job, name):
            manifest = store.manifest(one)
            if manifest is None:
                click.echo(f"{store.job} {one}: {_INCOMPLETE}")
                continue
            click.echo(
                f"{store.job} {one}: boundary {one.boundary}, {manifest.num_tasks} tasks, run {one.run} of generation "
                f"{one.generation}, attempt {manifest.attempt} since run {manifest.origin} began"
            )
            for task in range(manifest.num_tasks):
                with store.open_task(manifest, task) as reader:
                    head = reader.head
                parts = zip(head.parts, head.lengths, strict=True)
                click.echo(f"  task {task}: " + "; ".join(f"{p.describe()} ({n} bytes)" for p, n in parts))


_INCOMPLETE = "incomplete: it has no manifest"


def _look(store: CheckpointStore, name: Name, *, thoroughly: bool = False) -> Manifest | str:
    """Return the manifest of a checkpoint that is whole, or what is wrong with it."""
    try:
        manifest = store.manifest(name)
        if manifest is None:
            return _INCOMPLETE
        store.check(manifest)
        for task in range(manifest.num_tasks if thoroughly else 0):
            with store.open_task(manifest, task) as reader:
                reader.verify()
    except CheckpointError as error:
        return f"damaged: {error}"
    return manifest


def _stores(url: str, job: str | None) -> list[CheckpointStore]:
    jobs = [job] if job is not None else jobs_at(url)
    stores = [CheckpointStore(url, name) for name in jobs]
    if job is not None and not stores[0].names():
        raise CheckpointError(f"{url} has no checkpoints of job {job!r}: see taskgraph checkpoint list {url}")
    if not stores:
        raise CheckpointError(f"{url} has no checkpoints: give what Job(checkpoint=...) was given")
    return stores


def _chosen(url: str, job: str | None, name: str | None) -> Iterator[tuple[CheckpointStore, Name]]:
    """Return the checkpoint of a name, or all."""
    chosen = [(store, one) for store in _stores(url, job) for one in sorted(store.names()) if name in (None, str(one))]
    if not chosen:
        raise CheckpointError(f"there is no checkpoint {name} at {url}: see taskgraph checkpoint list {url}")
    return iter(chosen)


@contextmanager
def _errors() -> Iterator[None]:
    """Show errors of ours as one line."""
    try:
        yield
    except TaskgraphError as error:
        raise click.ClickException(str(error)) from error
