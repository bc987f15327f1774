"""The tasks of one rank: built, set up, restored, and told what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph._native.repeats import QuickContext
from taskgraph.config import Config
from taskgraph.errors import UsageError
from taskgraph.ids import Epoch, Generation, TaskId
from taskgraph.plan.holdings import NO_END, Held
from taskgraph.plan.manifest import Name
from taskgraph.plan.orders import Restore
from taskgraph.plan.relaunch import failures_before
from taskgraph.program.context import Context, EndMaker
from taskgraph.program.framework import Framework, Saved
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


@dataclass(slots=True)
class Replica:
    """One task on this rank.

    Attributes
    ----------
    state
        What it protects, by name, in the order declared.
    arrays, saved
        The arrays of it, and the rest.
    hears_commits
        Whether its `committed` does anything.
    context
        What it is composed with; None: this rank does not run it.
    """

    id: TaskId
    task: Task
    framework: Framework
    state: Mapping[str, NDArray[Any] | Saved]
    arrays: list[NDArray[Any]] = field(init=False)
    saved: list[Saved] = field(init=False)
    hears_commits: bool = field(init=False)
    context: Context | None = field(default=None)

    def __post_init__(self) -> None:
        self.arrays = [value for value in self.state.values() if isinstance(value, np.ndarray)]
        self.saved = [value for value in self.state.values() if isinstance(value, Saved)]
        self.hears_commits = getattr(self.task.committed, "__func__", None) is not Task.committed

    def parts(self) -> list[Any]:
        """Return the state as the parts of its form: arrays, then byte strings. Calls user code.

        Raises
        ------
        UsageError
            A `save` returned something else than bytes.
        """
        parts: list[Any] = [*self.arrays]
        for name, value in self.state.items():
            if isinstance(value, Saved):
                data = value.save()
                if not isinstance(data, bytes | bytearray | memoryview):
                    raise UsageError(f"save of {name!r} in task {self.id} returned {type(data).__name__}, not bytes")
                parts.append(data)
        return parts


class Fills(Protocol):
    """What holds the snapshots that replicas are filled from."""

    def declare(self, replica: Replica) -> None:
        """Make room for the snapshots of a task. Raises UsageError where there is too little."""

    def fill(self, slot: Held, replica: Replica) -> Epoch:
        """Put the state back that a slot holds; return how far ``committed`` had been called."""

    def recall(self, checkpoint: Name, replica: Replica) -> Epoch:
        """Put the state back that a checkpoint holds; return how far ``committed`` had been called."""


class Replicas:
    """The tasks of this rank, from generation to generation.

    Parameters
    ----------
    epoch
        Is told whose user code runs outside of compute.
    maker
        Makes channel ends and processors.

    Attributes
    ----------
    asked
        The highest status that a task has asked the job to end with, or `NO_END`.
    may_ask
        Whether it may: not after the last epoch.
    """

    def __init__(self, program: Program, epoch: NativeEpoch, maker: EndMaker) -> None:
        self._program = program
        self._epoch = epoch
        self._maker = maker
        self._all: dict[TaskId, Replica] = {}
        self.primaries: list[Replica] = []
        self.asked = NO_END
        self.may_ask = True

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._all.values())

    def __getitem__(self, task: TaskId) -> Replica:
        return self._all[task]

    def adopt(self, restore: Restore, generation: Generation, snapshots: Fills) -> dict[TaskId, Epoch]:
        """Become what a generation says: fill or rebuild what this rank runs, make what it backs up, drop the rest.

        Returns
        -------
        dict
            By task that was filled, from a slot or a checkpoint: how far ``committed`` had been called for it.
        """
        self.asked, self.may_ask = NO_END, True
        before, self._all, self.primaries = self._all, {}, []
        delivered: dict[TaskId, Epoch] = {}
        for slot in restore.slots:
            replica = before.get(slot.task) or self._make(slot.task, True, snapshots)
            self._epoch.caller = slot.task
            delivered[slot.task] = snapshots.fill(slot, replica)
            self._epoch.caller = None
            self._promote(replica, generation)
        for task in restore.rebuild:
            replica = self._make(task, True, snapshots)
            if restore.checkpoint is not None:
                self._epoch.caller = task
                delivered[task] = snapshots.recall(restore.checkpoint, replica)
                self._epoch.caller = None
            self._promote(replica, generation)
        for task in restore.backups:
            known = before.get(task)
            replica = self._all[task] = known or self._make(task, False, snapshots)
            replica.framework.is_primary = False
            replica.context = None
            if known is None and generation:
                self._call(replica, replica.task.became_backup)
        self.primaries.sort(key=lambda replica: replica.id)
        return delivered

    def _promote(self, replica: Replica, generation: Generation) -> None:
        """Make a replica the primary of its task in a generation."""
        config = self._program.config
        was_primary = replica.context is not None
        replica.framework.is_primary = True
        if replica.context is None:
            replica.context = QuickContext(
                replica.id, config.num_tasks, self._program.linkages, config.seed, self.shutdown, self._maker
            )
        else:
            replica.context.begin_anew()
        self._all[replica.id] = replica
        self.primaries.append(replica)
        if failures_before(generation) and not was_primary:
            self._call(replica, replica.task.became_primary)

    def _make(self, task_id: TaskId, is_primary: bool, snapshots: Fills) -> Replica:
        """Build a task and run its `init`.

        Raises
        ------
        UsageError
            The builder returned no `Task`.
        """
        self._epoch.caller = task_id
        task = self._program.build(task_id)
        if not isinstance(task, Task):
            raise UsageError(
                f"the task builder returned {task!r} for task {task_id}: it has to return a taskgraph.Task"
            )
        framework = Framework(task_id, self._program.config.num_tasks, is_primary, self.shutdown)
        task.init(framework)
        replica = Replica(task_id, task, framework, framework.close_init())
        snapshots.declare(replica)
        self._epoch.caller = None
        return replica

    def parts(self, task: TaskId) -> list[Any]:
        """Return the state of a task as the parts of its form: arrays, then byte strings."""
        replica = self._all[task]
        if not replica.saved:
            return [*replica.arrays]
        self._epoch.caller = task
        parts = replica.parts()
        self._epoch.caller = None
        return parts

    def shutdown(self, status: int) -> None:
        """Take that a task asks for the end of the job."""
        if isinstance(status, bool) or not isinstance(status, int) or not 0 <= status <= 255:
            raise UsageError(f"shutdown: status={status!r} is no integer from 0 to 255")
        if not self.may_ask:
            raise UsageError(
                f"shutdown({status}) was called after the last epoch, when the status of the job is decided: "
                "raise SystemExit(status) instead"
            )
        self.asked = max(self.asked, status)

    def committed(self, task: TaskId, start: Epoch, stop: Epoch) -> None:
        """Tell a task which epochs will not run again: from `start` up to `stop`, which is not one of them."""
        replica = self._all[task]
        if replica.hears_commits:
            for epoch in range(start, stop):
                self._call(replica, partial(replica.task.committed, epoch))

    def exit(self, tasks: Iterable[TaskId]) -> None:
        """Tell tasks that the job is over."""
        for task in tasks:
            self._call(self._all[task], self._all[task].task.exit)

    def _call(self, replica: Replica, call: Callable[[], None]) -> None:
        self._epoch.caller = replica.id
        call()
        self._epoch.caller = None
