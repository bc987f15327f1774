"""Checkpoints of a job in one process: its state is copied at a boundary, and a thread writes the copy."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from taskgraph.backends.checkpoint_file import Head, Memory, describe, memory_of, size_of
from taskgraph.config import Config
from taskgraph.errors import CheckpointError
from taskgraph.ids import Epoch, TaskId
from taskgraph.plan import orders as do
from taskgraph.plan.checkpoints import interval_s
from taskgraph.plan.holdings import NO_END
from taskgraph.plan.manifest import Name
from taskgraph.run.checkpoints.rounds import FIRST_S, pause_after, warn_of_none
from taskgraph.run.checkpoints.shelf import Shelf
from taskgraph.run.state.recall import Recall
from taskgraph.run.state.replicas import Replica, Replicas
from taskgraph.run.state.snapshots import NoSnapshots

log = logging.getLogger(__name__)

_END_S = 60.0


class AloneCheckpoints(NoSnapshots):
    """The `Snapshots` of such a job: nothing is kept but what goes into a checkpoint.

    Parameters
    ----------
    run
        Identity of the run.
    first
        The boundary that the job starts from.
    clock
        Seconds, never going back.
    """

    def __init__(
        self, config: Config, run: str, shelf: Shelf, first: Epoch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._run = run
        self._shelf = shelf
        self._first = first
        self._clock = clock
        self._recall = Recall(shelf.store)
        self._due = clock() + FIRST_S
        self._thread: threading.Thread | None = None
        self._troubles = 0

    def recall(self, checkpoint: Name, replica: Replica) -> Epoch:
        """Put the state back that a checkpoint holds; return how far ``committed`` had been called."""
        return self._recall(checkpoint, replica)

    def take(self, order: do.Snapshot, replicas: Replicas) -> None:
        """Copy the state for a checkpoint, if one is due at this boundary and the one before is written."""
        if not self._is_due(order):
            return
        name = Name(order.boundary, self._run, 0)
        tasks = [
            self._copy(name, replicas, slot.task, delivered)
            for slot, delivered in zip(order.slots, order.delivered, strict=True)
        ]
        self._thread = threading.Thread(
            target=self._write, args=(name, tasks), name="taskgraph-checkpoints", daemon=True
        )
        self._thread.start()

    def _is_due(self, order: do.Snapshot) -> bool:
        boundary, every = order.boundary, self._config.checkpoint_every
        ends = any(slot.end != NO_END for slot in order.slots) or boundary == self._config.epochs
        if ends or boundary == self._first or (self._thread is not None and self._thread.is_alive()):
            return False
        if every == "auto" or self._troubles:
            return self._clock() >= self._due
        return boundary % every == 0

    def _copy(self, name: Name, replicas: Replicas, task: TaskId, delivered: Epoch) -> tuple[Head, list[Memory]]:
        parts = [
            memory_of(part.copy(order="K")) if isinstance(part, np.ndarray) else part for part in replicas.parts(task)
        ]
        head = Head(
            job=self._config.name,
            num_tasks=self._config.num_tasks,
            task=task,
            boundary=name.boundary,
            run=name.run,
            generation=name.generation,
            delivered=delivered,
            parts=describe(replicas[task].state),
            lengths=tuple(len(part) for part in parts),
        )
        return head, parts

    def _write(self, name: Name, tasks: list[tuple[Head, list[Memory]]]) -> None:
        began = self._clock()
        store = self._shelf.store
        try:
            store.prepare(name)
            for head, parts in tasks:
                store.write_task(head, parts, lambda: True)
            history: Mapping[int, Epoch] = {0: self._first}
            self._shelf.complete(name, history, tuple(size_of(head) for head, _ in tasks))
            self._shelf.prune(None)
        except CheckpointError as error:
            self._troubles += 1
            pause_s = pause_after(self._troubles)
            self._due = self._clock() + pause_s
            warn_of_none(name.boundary, error, self._shelf.newest, pause_s)
        else:
            self._troubles = 0
            self._due = began + interval_s(self._clock() - began, self._config.mtbf_s)

    def close(self, *, finished: bool) -> None:
        """Let the last checkpoint be written, and note the end of the job if it has finished."""
        if self._thread is not None:
            self._thread.join(_END_S)
        try:
            if finished:
                self._shelf.end(None)
        except CheckpointError as error:
            log.warning("%s; the next run of this name may go on from its last checkpoint", error)
