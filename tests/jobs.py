"""Jobs written down as functions, run with ranks as threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

import taskgraph as tg

Compose = Callable[[tg.Context, int], None]

on_any_ranks = pytest.mark.parametrize("ranks", [1, 2, 4])


class Composed(tg.Task):
    """A task whose `set_epoch` is a function of context and epoch."""

    def __init__(self, compose: Compose) -> None:
        self.compose = compose

    def set_epoch(self, ctx, epoch):
        self.compose(ctx, epoch)


def job_of(
    *composes: Compose | tg.Task | None,
    epochs: int | None = 1,
    linkages: Mapping[str, Callable] | None = None,
    topology: object = None,
    **options: object,
) -> tg.Job:
    """Return a job with a task for each argument: a `Task`, or what its `set_epoch` does; None: nothing."""
    job = tg.Job("job", num_tasks=len(composes), epochs=epochs, **options)

    def build(task_id: int) -> tg.Task:
        made = composes[task_id]
        return made if isinstance(made, tg.Task) else Composed(made or (lambda ctx, epoch: None))

    job.set_task_builder(build)
    for name, linkage in (linkages or {}).items():
        job.add_linkage(name, linkage)
    if topology is not None:
        job.add_topology(topology)
    return job


def run(*composes: Compose | tg.Task | None, ranks: int = 1, **options: object) -> int:
    """Run such a job, and return its status."""
    return tg.testing.run(job_of(*composes, **options), ranks=ranks)


def put(value: object, **how: object) -> Callable:
    """Return a processor that puts one value into each of its out channels."""

    def compute(ins, outs):
        for out in outs:
            out.put(value, **how)

    return compute


def get_into(values: list) -> Callable:
    """Return a processor that appends what it gets to a list."""

    def compute(ins, outs):
        values.extend(channel.get() for channel in ins)

    return compute
