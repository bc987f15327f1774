"""Checkpoints made by hand, for several test files."""

from __future__ import annotations

import numpy as np

from taskgraph.backends.checkpoint_file import Head, describe, memory_of, size_of
from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.plan.manifest import Manifest, Name

RUN, OTHER = "0123456789abcdef", "fedcba9876543210"
NAME = Name(4, RUN, 0)


def head_of(state: dict, *, job="job", tasks=2, task=0, name=NAME) -> Head:
    lengths = tuple(part.nbytes for part in state.values() if isinstance(part, np.ndarray))
    lengths += tuple(len(part) for part in state.values() if isinstance(part, bytes))
    return Head(
        job=job, num_tasks=tasks, task=task, boundary=name.boundary, run=name.run, generation=name.generation,
        delivered=3, parts=describe(state), lengths=lengths,
    )  # fmt: skip


def parts_of(state: dict) -> list:
    arrays = [memory_of(part) for part in state.values() if isinstance(part, np.ndarray)]
    return arrays + [part for part in state.values() if isinstance(part, bytes)]


def manifest_of(name=NAME, *, job="job", sizes=(0, 0), origin=RUN, started=1.0, attempt=1, history=None):
    return Manifest(
        job=job, num_tasks=len(sizes), name=name, origin=origin, started=started, attempt=attempt,
        history=history or {0: 0}, written=2.0, sizes=tuple(sizes),
    )  # fmt: skip


def make(store: CheckpointStore, states: list[dict], name=NAME, **manifest) -> Manifest:
    """Write a whole checkpoint."""
    store.prepare(name)
    sizes = []
    for task, state in enumerate(states):
        head = head_of(state, job=store.job, tasks=len(states), task=task, name=name)
        assert store.write_task(head, parts_of(state), lambda: True)
        sizes.append(size_of(head))
    made = manifest_of(name, job=store.job, sizes=sizes, **manifest)
    store.complete(made)
    return made
