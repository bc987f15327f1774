"""The files of this rank's tasks in checkpoints: from slots into the store, and from the store into arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from taskgraph.backends.checkpoint_file import Head, Part, describe
from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.backends.slots import Refusal, SlotDir
from taskgraph.errors import CheckpointError
from taskgraph.ids import Epoch, TaskId
from taskgraph.plan.manifest import Name
from taskgraph.run.state.recall import Recall
from taskgraph.run.state.replicas import Replica
from taskgraph.run.state.slot_note import delivered_of


class TaskFiles:
    """Writes and reads them.

    Parameters
    ----------
    num_tasks
        Of the job.
    """

    def __init__(self, store: CheckpointStore, slots: SlotDir, num_tasks: int) -> None:
        self._store = store
        self._slots = slots
        self._num_tasks = num_tasks
        self._parts: dict[TaskId, tuple[Part, ...]] = {}
        self._recall = Recall(store)

    def declare(self, replica: Replica) -> None:
        """Take what a task protects: its snapshots do not say."""
        self._parts[replica.id] = describe(replica.state)

    def prepare(self, name: Name) -> None:
        """Make the directory of a checkpoint."""
        self._store.prepare(name)

    def are_whole(self, boundary: Epoch, tasks: Iterable[TaskId]) -> bool:
        """Tell whether the host has the snapshots of tasks at a boundary."""
        return all(self._slots.find(task, boundary) is not None for task in tasks)

    def write(self, name: Name, task: TaskId, may_go_on: Callable[[], bool]) -> bool:
        """Write a task's snapshot into a checkpoint; for the thread that does nothing else.

        Parameters
        ----------
        may_go_on
            Whether it is still wanted; asked now and then.

        Returns
        -------
        bool
            False where the snapshot is not there, or went while it was read.

        Raises
        ------
        CheckpointError
            It was not written.
        """
        slots = self._slots
        held = slots.find(task, name.boundary)  # what a generation has resumed from, an earlier one has written
        mapped = None if held is None else slots.map(held)
        if held is None or mapped is None:
            return False
        if slots.verify(held) is Refusal.DAMAGED:
            raise CheckpointError(f"the snapshot of task {task} in shared memory does not match its checksum")
        head = Head(
            job=self._store.job,
            num_tasks=self._num_tasks,
            task=task,
            boundary=name.boundary,
            run=name.run,
            generation=name.generation,
            delivered=delivered_of(held.note),
            parts=self._parts[task],
            lengths=held.lengths,
        )
        memory = memoryview(mapped.memory)
        starts = zip(mapped.layout.starts, held.lengths, strict=True)
        parts = [memory[start : start + length] for start, length in starts]
        # While a slot is whole nobody writes to it, and what was read of it is what was verified.
        return self._store.write_task(head, parts, lambda: may_go_on() and slots.table.is_whole(held.slot, held.cycle))

    def recall(self, name: Name, replica: Replica) -> Epoch:
        """Fill a task from a checkpoint; return how far ``committed`` had been called. As `Recall`."""
        return self._recall(name, replica)
