"""The tasks of one rank: built, set up, and told what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from taskgraph.config import Config
from taskgraph.errors import UsageError
from taskgraph.ids import TaskId
from taskgraph.program.context import Context, EndMaker
from taskgraph.program.framework import Framework
from taskgraph.program.task import Task
from taskgraph.program.topology import Linkage

Build = Callable[[TaskId], object]
"""Makes the task of an id. What it returns is checked."""


@dataclass(frozen=True, slots=True)
class Program:
    """What the driver configured: everything that is the same on every rank."""

    config: Config
    build: Build
    linkages: Mapping[str, Linkage]


@dataclass(frozen=True, slots=True)
class Replica:
    """One task on this rank."""

    id: TaskId
    task: Task
    framework: Framework
    context: Context
    protected: tuple[np.ndarray, ...]


def make_replica(
    program: Program, task_id: TaskId, is_primary: bool, shutdown: Callable[[int], None], maker: EndMaker
) -> Replica:
    """Build a task and run its `init`.

    Raises
    ------
    UsageError
        The builder returned no `Task`.
    Exception
        Whatever user code raises.
    """
    config = program.config
    task = program.build(task_id)
    if not isinstance(task, Task):
        raise UsageError(f"the task builder returned {task!r} for task {task_id}: it has to return a taskgraph.Task")
    framework = Framework(task_id, config.num_tasks, is_primary, shutdown)
    context = Context(task_id, config.num_tasks, program.linkages, config.seed, shutdown, maker)
    task.init(framework)
    return Replica(task_id, task, framework, context, _arrays(framework.close_init().values()))


def _arrays(state: Iterable[object]) -> tuple[np.ndarray, ...]:
    return tuple(value for value in state if isinstance(value, np.ndarray))
