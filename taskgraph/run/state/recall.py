"""From a checkpoint into the arrays of a task."""

from __future__ import annotations

from taskgraph.backends.checkpoint_file import Head, describe, memory_of
from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.errors import CheckpointDamaged, UsageError
from taskgraph.ids import Epoch
from taskgraph.plan.manifest import Manifest, Name
from taskgraph.run.state.replicas import Replica


class Recall:
    """Fills tasks."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._manifest: Manifest | None = None

    def __call__(self, name: Name, replica: Replica) -> Epoch:
        """Fill a task from a checkpoint; return how far ``committed`` had been called.

        Raises
        ------
        CheckpointError
            It cannot be read.
        UsageError
            The task protects something else than the checkpoint holds.
        """
        if self._manifest is None or self._manifest.name != name:
            self._manifest = self._store.manifest(name)
        if self._manifest is None:
            raise CheckpointDamaged(f"{self._store.url}: checkpoint {name} has no manifest any more")
        with self._store.open_task(self._manifest, replica.id) as reader:
            head = reader.head
            _compare(name, replica, head)
            arrays = [memory_of(array) for array in replica.arrays]
            if tuple(array.nbytes for array in arrays) != head.lengths[: len(arrays)]:
                raise CheckpointDamaged("its parts are not as long as its head says")
            strings = [bytearray(length) for length in head.lengths[len(arrays) :]]
            reader.fill([*arrays, *strings])
        for saved, data in zip(replica.saved, strings, strict=True):
            saved.load(bytes(data))
        return head.delivered


def _compare(name: Name, replica: Replica, head: Head) -> None:
    own = describe(replica.state)
    if own == head.parts:
        return
    differ = [pair for pair in zip(own, head.parts, strict=False) if pair[0] != pair[1]]
    mine, theirs = (
        (part.describe() for part in differ[0]) if differ else (f"{len(own)} parts", f"{len(head.parts)} parts")
    )
    raise UsageError(
        f"task {replica.id} protects {mine}, but checkpoint {name} holds {theirs}: "
        "go on with the program that wrote it, or begin afresh with resume='never'"
    )
