"""The snapshots of a host, as the worker of one of its ranks uses them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sized
from typing import Any, Protocol

from taskgraph._native.committer import Committer
from taskgraph._native.slotwriter import SlotWriter
from taskgraph.backends.transport import Transport
from taskgraph.ids import Epoch, Generation, TaskId
from taskgraph.plan import orders as do
from taskgraph.plan.holdings import Held, Known
from taskgraph.plan.lineage import History
from taskgraph.plan.manifest import Name
from taskgraph.run.state.copies import ArrivedCopy
from taskgraph.run.state.replicas import Replica, Replicas


class Snapshots(Protocol):
    """Whole snapshots in the shared memory of the host, and how far they count."""

    def admits(self, generation: Generation) -> bool:
        """Tell whether a generation may still change anything on this host."""

    def held(self) -> Collection[Held]:
        """Return the whole snapshots of the host."""

    def held_of(self, task: TaskId) -> Collection[Held]:
        """Return the whole snapshots of a task on this host, without the statuses that may have been asked for."""

    def declare(self, replica: Replica) -> None:
        """Make room for the snapshots of a task. Raises UsageError where there is too little."""

    def take(self, order: do.Snapshot, replicas: Replicas) -> None:
        """Copy the protected state of tasks into slots. Raises EpochAborted below the floor."""

    def committer(self, transport: Transport, queue: Sized) -> Committer | None:
        """Return who ends the epochs of this rank while nothing else happens; None: nobody but its member."""

    def writers(self, tasks: Iterable[TaskId]) -> list[SlotWriter] | None:
        """Return who repeats the snapshots of tasks; None: of one of them no snapshot can be repeated."""

    def keepers(self, tasks: Iterable[TaskId]) -> dict[TaskId, SlotWriter]:
        """Return who stores the copies of tasks while each is a change of the one before."""

    def fill(self, slot: Held, replica: Replica) -> Epoch:
        """Put the state back that a slot holds; return how far ``committed`` had been called.

        Raises
        ------
        EpochAborted
            The slot is gone: the generation is over.
        """

    def recall(self, checkpoint: Name, replica: Replica) -> Epoch:
        """Put the state back that a checkpoint holds; return how far ``committed`` had been called.

        Raises
        ------
        CheckpointError
            It cannot be read.
        UsageError
            The task protects something else.
        """

    def adopt(self, generation: Generation, history: History) -> None:
        """Enter a generation, and free what its history makes invalid."""

    def record(self, known: Known) -> None:
        """Write down what a commit said, and free what lies below its safe boundary."""

    def outgoing(self, order: do.Replicate) -> list[Any] | None:
        """Return the frames of a copy: what it is, and the blocks of it that the receiver lacks; None: it is gone."""

    def store(self, copy: ArrivedCopy) -> bool:
        """Write a copy that arrived into a slot of this rank; return whether it is whole."""

    def mark_over(self, generation: Generation, status: int) -> None:
        """Write down that the job is over."""


class NoSnapshots:
    """For a job in one process: what would be lost with it is not worth keeping."""

    def admits(self, generation: Generation) -> bool:
        """Return True."""
        return True

    def held(self) -> Collection[Held]:
        """Return nothing."""
        return ()

    def held_of(self, task: TaskId) -> Collection[Held]:
        """Return nothing."""
        return ()

    def declare(self, replica: Replica) -> None:
        """See that its state can be saved, as it will have to be elsewhere."""
        replica.parts()

    def take(self, order: do.Snapshot, replicas: Replicas) -> None:
        """Do nothing."""

    def committer(self, transport: Transport, queue: Sized) -> Committer | None:
        """Return None."""
        return None

    def writers(self, tasks: Iterable[TaskId]) -> list[SlotWriter] | None:
        """Return None."""
        return None

    def keepers(self, tasks: Iterable[TaskId]) -> dict[TaskId, SlotWriter]:
        """Return nobody."""
        return {}

    def fill(self, slot: Held, replica: Replica) -> Epoch:
        """Never called: nothing is held."""
        raise AssertionError(slot)

    def recall(self, checkpoint: Name, replica: Replica) -> Epoch:
        """Never called: there are no checkpoints."""
        raise AssertionError(checkpoint)

    def adopt(self, generation: Generation, history: History) -> None:
        """Do nothing."""

    def record(self, known: Known) -> None:
        """Do nothing."""

    def outgoing(self, order: do.Replicate) -> list[Any] | None:
        """Never called: all ranks share one host."""
        raise AssertionError(order)

    def store(self, copy: ArrivedCopy) -> bool:
        """Never called: nothing is sent."""
        raise AssertionError(copy)

    def mark_over(self, generation: Generation, status: int) -> None:
        """Do nothing."""
