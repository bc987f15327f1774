"""The `Snapshots` of a rank in a job that survives failures: slots in the shared memory of its host."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sized
from typing import Any

from taskgraph._native.committer import Committer
from taskgraph._native.slotwriter import SlotWriter
from taskgraph.backends.commits import Commits
from taskgraph.backends.slot_delta import Delta, Snapshot, send_held
from taskgraph.backends.slot_file import Form
from taskgraph.backends.slot_file import Held as Slot
from taskgraph.backends.slot_holder import Holder
from taskgraph.backends.slots import Refusal, SlotDir
from taskgraph.backends.transport import Transport
from taskgraph.errors import EpochAborted, TaskgraphError
from taskgraph.ids import Epoch, Generation, TaskId
from taskgraph.plan import orders as do
from taskgraph.plan.holdings import Held, Known
from taskgraph.plan.lineage import History, is_valid
from taskgraph.plan.manifest import Name
from taskgraph.plan.relaunch import failures_before
from taskgraph.run.state import copies
from taskgraph.run.state.replicas import Replica, Replicas
from taskgraph.run.state.slot_note import END_BITS, delivered_of, end_of, note
from taskgraph.run.state.task_files import TaskFiles


class HostSnapshots:
    """Reads and writes the slots of this host, on behalf of one rank.

    Parameters
    ----------
    slots, commits
        Of the host.
    index
        Position of this rank among those of its host.
    checkpoints
        Told of what tasks protect, and asked for what a checkpoint has; None: there are none.
    """

    def __init__(self, slots: SlotDir, commits: Commits, index: int, checkpoints: TaskFiles | None = None) -> None:
        self._slots = slots
        self.admits = slots.admits
        self._line = commits.line(index)
        self._checkpoints = checkpoints
        self._holders: dict[TaskId, Holder] = {}
        self._taken: dict[tuple[TaskId, Epoch, Generation], Snapshot] = {}
        self._resumed: dict[TaskId, Slot] = {}
        self._generation: Generation = 0
        self._lineage: tuple[tuple[Generation, Epoch], ...] = ()

    def held(self) -> Collection[Held]:
        """Return the whole snapshots of the host."""
        return [stamp(slot) for slot in self._slots.holdings()]

    def held_of(self, task: TaskId) -> Collection[Held]:
        """Return the whole snapshots of a task on this host, without the statuses that may have been asked for."""
        return [Held(*known) for known in self._slots.stamps(task)]

    def declare(self, replica: Replica) -> None:
        """Make room for the snapshots of a task. Raises UsageError where there is too little."""
        known = self._holders.pop(replica.id, None)
        if known is not None:
            known.close()
        at_once = not failures_before(self._generation)
        self._holders[replica.id] = Holder(self._slots, replica.id, Form.of(replica.state), at_once=at_once)
        if self._checkpoints is not None:
            self._checkpoints.declare(replica)

    def recall(self, checkpoint: Name, replica: Replica) -> Epoch:
        """Put the state back that a checkpoint holds; return how far ``committed`` had been called."""
        assert self._checkpoints is not None, f"checkpoint {checkpoint}, and no place to look for it"
        return self._checkpoints.recall(checkpoint, replica)

    def adopt(self, generation: Generation, history: History) -> None:
        """Enter a generation, and free what its history makes invalid."""
        self._generation = generation
        self._lineage = tuple(sorted(history.items()))
        self._resumed.clear()
        self._taken.clear()
        self._slots.raise_floor(generation)
        for slot in self._slots.holdings():
            if not is_valid(slot.boundary, slot.generation, history):
                self._slots.free(slot, generation)

    def take(self, order: do.Snapshot, replicas: Replicas) -> None:
        """Copy the protected state of tasks into slots. Raises EpochAborted below the floor."""
        for slot, delivered in zip(order.slots, order.delivered, strict=True):
            task, boundary, generation, end = slot
            holder, noted = self._holders[task], note(delivered, end)
            if not holder.repeat(boundary, generation, noted):
                self._write(holder, slot, noted, replicas.parts(task))
                holder.prepare(replicas[task].arrays)

    def _write(self, holder: Holder, slot: Held, noted: int, parts: list[Any]) -> None:
        task, boundary, generation, _ = slot
        taken = holder.write(
            boundary,
            generation,
            parts,
            note=noted,
            history=self._lineage,
            base=self._resumed.pop(task, None) if self._resumed else None,
        )
        if taken is Refusal.HELD and holder.wrote(boundary, generation):
            return  # before that of another task could not be
        if isinstance(taken, Refusal):
            raise self._refused(taken, f"boundary {boundary} of task {task} was not saved")
        self._taken[task, boundary, generation] = taken

    def committer(self, transport: Transport, queue: Sized) -> Committer | None:
        """Return who ends the epochs of this rank while nothing else happens."""
        committer = Committer(transport, self._slots.table, self._line, queue, END_BITS)
        return committer if transport.hear_first(committer) else None

    def writers(self, tasks: Iterable[TaskId]) -> list[SlotWriter] | None:
        """Return who repeats the snapshots of tasks; None: of one of them no snapshot can be repeated."""
        writers = [self._holders[task].writer for task in tasks]
        return writers if all(writer.generation == self._generation for writer in writers) else None

    def keepers(self, tasks: Iterable[TaskId]) -> dict[TaskId, SlotWriter]:
        """Return who stores the copies of tasks while each is a change of the one before."""
        return {task: self._holders[task].writer for task in tasks}

    def fill(self, slot: Held, replica: Replica) -> Epoch:
        """Put the state back that a slot holds; return how far ``committed`` had been called.

        Raises
        ------
        EpochAborted
            The slot is gone, since the generation is over.
        """
        holder = self._holders[replica.id]
        found = holder.find(slot.boundary, slot.generation)
        content = Refusal.GONE if found is None else holder.read(found, replica.arrays)
        if found is None or isinstance(content, Refusal):
            raise self._refused(
                content if isinstance(content, Refusal) else Refusal.GONE,
                f"boundary {slot.boundary} of task {slot.task} cannot be restored",
            )
        for saved, data in zip(replica.saved, content, strict=True):
            saved.load(data)
        self._resumed[slot.task] = found
        return delivered_of(found.note)

    def record(self, known: Known) -> None:
        """Write down what a commit said, and free what lies below its safe boundary."""
        self._line.heard(*known)
        self._slots.free_below(known.safe, self._generation)
        for key in [key for key in self._taken if key[1] < known.safe]:
            del self._taken[key]

    def outgoing(self, order: do.Replicate) -> list[Any] | None:
        """Return the frames of a copy: what it is, then the blocks of it that the receiver lacks.

        None: it was freed meanwhile, so whoever has asked for it gets a later one.
        """
        copy = self._delta(order.slot, order.base)
        if copy is not None:
            return copies.closed(copy, order.known)
        if not self._slots.admits(self._generation):
            raise EpochAborted
        return None

    def _delta(self, slot: Held, base: Held | None) -> Delta | None:
        taken = self._taken.get(slot[:3]) or self._repeated(slot)
        if taken is not None:
            if base is not None and taken.base is not None and stamp(taken.base)[:3] == base[:3]:
                return taken.delta()
            return taken.whole()
        found = self._slots.find(*slot[:3])
        return None if found is None else send_held(self._slots, found)

    def _repeated(self, slot: Held) -> Snapshot | None:
        """Return a snapshot that was just repeated, and what it changed; None: it was not."""
        taken = self._holders[slot.task].repeated(slot.boundary, slot.generation)
        if taken is not None:
            self._taken = {key: kept for key, kept in self._taken.items() if key[0] != slot.task}
            self._taken[slot[:3]] = taken
        return taken

    def store(self, copy: copies.ArrivedCopy) -> bool:
        """Write a copy that arrived into a slot of this rank; return whether it is whole.

        Raises
        ------
        EpochAborted
            The generation is over.
        """
        slot = copy.slot
        holder = self._holders[slot.task]
        stored = holder.apply(copy.head, copy.blocks, self._generation)
        if stored in (Refusal.NO_BASE, Refusal.DAMAGED):
            return False
        if not isinstance(stored, Refusal):
            holder.prepare(None)
        elif stored is not Refusal.HELD:
            raise self._refused(stored, f"the copy of boundary {slot.boundary} of task {slot.task} was not stored")
        return True

    def mark_over(self, generation: Generation, status: int) -> None:
        """Write down that the job is over."""
        self._line.mark_over(generation, status)

    def _refused(self, refusal: Refusal, what: str) -> BaseException:
        """Return what to raise: below the floor nothing is wrong, the next generation is coming."""
        if refusal is Refusal.FENCED or not self._slots.admits(self._generation):
            return EpochAborted()
        return TaskgraphError(f"{what}: {refusal.value}")


def stamp(slot: Slot) -> Held:
    """Return what the protocol knows a snapshot by."""
    return Held(slot.task, slot.boundary, slot.generation, end_of(slot.note))


def read_slots(slots: SlotDir) -> tuple[Held, ...]:
    """Return the whole snapshots of a host, to be published."""
    return tuple(stamp(slot) for slot in slots.holdings())
