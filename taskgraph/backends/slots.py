"""The snapshots that one host holds: a directory in its shared memory that every rank of the host and its keeper open.

A table (`taskgraph._native.slots`) has the state of each slot and the host's floor; each slot has a file beside it. A
snapshot outlives the process that wrote it: any process of the host may list, read, send and free it.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from taskgraph._native import slots as native
from taskgraph._native.slots import SlotTable
from taskgraph.backends.processes import Process, alive
from taskgraph.backends.slot_file import Held, SlotFile, read_head
from taskgraph.ids import Epoch, Generation, TaskId
from taskgraph.plan.grid import SLOTS

CAPACITY = 16384
"""Slots that a host may have: 64 bytes each are set aside."""

_START_BITS = 42


class Refusal(Enum):
    """Why something was not done. None of these is an error."""

    FENCED = "the generation is over on this host"
    FULL = "the host holds as many snapshots of the task as it may: the next commit frees one"
    HELD = "the host holds this snapshot already"
    GONE = "the snapshot is not there any more"
    DAMAGED = "the content does not match its checksum"
    NO_BASE = "the host does not hold the snapshot that this one is a change of"
    OTHER_FORM = "the snapshot is of another set of arrays"


class SlotDir:
    """The slots of one host.

    Every method may be called by any process and any thread at any time, and waits for none.
    """

    def __init__(self, path: Path, table: SlotTable) -> None:
        self.path = path
        self.room = SLOTS
        """Slots that a task has: one more where boundaries are held back, so that nobody waits for these."""
        self.table = table
        self.admits = table.admits
        """Whether a generation is not over here: ask before an ack, a contribution to a commit, a `committed`."""
        self.owner = owner_word(Process.current())
        self._prefix = str(self.file(0)).removesuffix("0")

    @classmethod
    def create(cls, path: Path, run: str, *, capacity: int = CAPACITY) -> SlotDir:
        """Make the directory, private and without slots, for the run of this identity.

        Raises
        ------
        OSError
            It is there already, or there is no room.
        """
        path.mkdir(mode=0o700)
        content = SlotTable.fresh(capacity, hashlib.blake2b(run.encode(), digest_size=16).digest())
        draft = path / ".table"
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, len(content))
            os.pwrite(descriptor, content[:4096], 0)  # the rest is zeros as it is
        finally:
            os.close(descriptor)
        os.rename(draft, path / "table")
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> SlotDir:
        """Open what another process made.

        Raises
        ------
        OSError
            It is not there.
        ValueError
            It is no directory of slots.
        """
        descriptor = os.open(path / "table", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size == 0:
                raise ValueError(f"{path} has an empty table")
            return cls(path, SlotTable(mmap.mmap(descriptor, 0)))
        finally:
            os.close(descriptor)

    # ---- the floor ----

    @property
    def floor(self) -> Generation:
        """The lowest generation that may change anything here."""
        return self.table.floor

    def raise_floor(self, generation: Generation) -> None:
        """End all older generations on this host, for good. What is whole afterwards is all they have left."""
        self.table.raise_floor(generation)

    # ---- what is held back ----

    @property
    def held_back(self) -> Epoch:
        """The boundary whose snapshots no commit frees, since they go into a checkpoint; -1: none."""
        return self.table.held_back

    def hold_back(self, boundary: Epoch) -> None:
        """Hold a boundary back in place of the one before. It may lie ahead; what is freed already does not return."""
        self.table.held_back = boundary

    # ---- what is held ----

    def holdings(self, task: TaskId | None = None) -> list[Held]:
        """Return the whole snapshots, of all tasks or one, with intact heads; the content is checked by `read`."""
        found = (self._held(*entry) for entry in self.table.whole(-1 if task is None else task))
        return [held for held in found if held is not None]

    def stamps(self, task: TaskId) -> list[tuple[TaskId, Epoch, Generation]]:
        """Return which snapshots of a task are whole, as the table has it: no file is opened."""
        return [entry[2:] for entry in self.table.whole(task)]

    def find(self, task: TaskId, boundary: Epoch, generation: Generation | None = None) -> Held | None:
        """Return the snapshot of a boundary, that of this generation or the newest. None where there is none."""
        for entry in sorted(self.table.whole(task), key=lambda entry: -entry[4]):
            if entry[3] == boundary and generation in (None, entry[4]):
                held = self._held(*entry)
                if held is not None:
                    return held
        return None

    def _held(self, index: int, cycle: int, task: int, boundary: int, generation: int) -> Held | None:
        with _opened(self._prefix + str(index)) as descriptor:
            found = None if descriptor is None else read_head(descriptor, index, self.table.run)
        if found is None or not self.table.is_whole(index, cycle):
            return None
        held = found[0]
        return held if (held.cycle, *held[:3]) == (cycle, task, boundary, generation) else None

    def file(self, index: int) -> Path:
        """Return the path of a slot."""
        return self.path / f"slot-{index}"

    # ---- its content ----

    def read(self, held: Held, arrays: Sequence[NDArray[Any]]) -> list[bytes] | Refusal:
        """Copy a snapshot into a task's arrays.

        Parameters
        ----------
        held
            As `holdings` or `find` returned it.
        arrays
            All arrays of the form, writable and contiguous. After a refusal their content is of no use.

        Returns
        -------
        list of bytes or Refusal
            The byte strings of the snapshot; or GONE, DAMAGED, OTHER_FORM.
        """
        return self.read_mapped(held, self.map(held), arrays)

    def read_mapped(self, held: Held, slot: SlotFile | None, arrays: Sequence[NDArray[Any]]) -> list[bytes] | Refusal:
        """Do as `read`, from where the snapshot is mapped."""
        if tuple(array.nbytes for array in arrays) != held.lengths[: len(arrays)]:
            return Refusal.OTHER_FORM
        strings = [bytearray(length) for length in held.lengths[len(arrays) :]]
        refusal = self._check(held, slot, [*arrays, *strings])
        return [bytes(string) for string in strings] if refusal is None else refusal

    def verify(self, held: Held) -> Refusal | None:
        """Check the content of a snapshot without keeping it. None: it is what was written."""
        return self._check(held, self.map(held), None)

    def _check(
        self, held: Held, slot: SlotFile | None, targets: Sequence[NDArray[Any] | bytearray] | None
    ) -> Refusal | None:
        good = slot is not None and slot.blocks.read(held.form, targets) == held.checksum
        whole = self.table.is_whole(held.slot, held.cycle)
        return None if good and whole else Refusal.DAMAGED if whole else Refusal.GONE

    def map(self, held: Held) -> SlotFile | None:
        """Map a snapshot, to send it or to compare with it. None where it is not there any more, or its table is wrong.

        The memory stays, but another snapshot may come to lie in it once this one is freed: who uses it has to check.
        """
        with _opened(self._prefix + str(held.slot)) as descriptor:
            found = None if descriptor is None else read_head(descriptor, held.slot, self.table.run)
            if descriptor is None or found is None or found[0] != held:
                return None
            slot = SlotFile.open(descriptor, held.lengths, found[1])
        whole = slot.blocks.checksum(held.form) == held.checksum and self.table.is_whole(held.slot, held.cycle)
        return slot if whole else None

    # ---- freeing ----

    def free(self, held: Held, generation: Generation) -> Refusal | None:
        """Free one snapshot, such as one that a decision made invalid. Idempotent; None or FENCED."""
        return Refusal.FENCED if self.table.free(held.slot, held.cycle, generation) == native.FENCED else None

    def free_below(self, boundary: Epoch, generation: Generation, task: TaskId | None = None) -> Refusal | None:
        """Free what a commit that was received made unnecessary: all below its safe boundary. None or FENCED."""
        fenced = self.table.free_below(boundary, generation, -1 if task is None else task) == native.FENCED
        return Refusal.FENCED if fenced else None

    def drop(self, index: int) -> None:
        """Remove a slot of ours that is not whole, file and entry."""
        self.file(index).unlink(missing_ok=True)
        self.table.give_back(index, self.table.look(index)[2])


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def owner_word(process: Process) -> int:
    """Return a process as one word: pids have 22 bits at most, and boots last less than 2^42 ticks."""
    return process.pid << _START_BITS | process.start & (1 << _START_BITS) - 1


def gone(owner: int) -> bool:
    """Whether the owner of a slot will never write to it again: it is dead, or said so."""
    if owner == native.NOBODY:
        return True
    return not alive(Process(owner >> _START_BITS, owner & (1 << _START_BITS) - 1))
