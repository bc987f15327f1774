"""The slots that this process writes for one task: as its primary from the arrays, as a backup from what arrives.

Slots are allocated when the holder is made, so that a full host is an error there. A slot has one writer for ever: one
of a process that is gone, or of a holder that was closed, is taken over, with its memory, once it holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from taskgraph._native import slots as native
from taskgraph._native.blocks import Blocks
from taskgraph.backends.slot_delta import DeltaHead, Snapshot
from taskgraph.backends.slot_file import BLOCK, Form, Head, History, Layout, Part, SlotFile
from taskgraph.backends.slots import KEPT, Held, Refusal, SlotDir, gone
from taskgraph.errors import UsageError
from taskgraph.ids import Epoch, Generation, TaskId

_PAGE = 4096
_HISTORY_ROOM = 64
_Fill: TypeAlias = Callable[[Blocks, Blocks | None, int], bool]


class _Stamp(NamedTuple):
    boundary: Epoch
    generation: Generation
    delivered: Epoch
    history: History
    lengths: tuple[int, ...]


class Holder:
    """Writes the snapshots of one task on this host. For one thread.

    Parameters
    ----------
    slots
        Of this host.
    task
        Its id.
    form
        Of its protected state.
    block
        Bytes of a block, a multiple of 1024; the same on all hosts.

    Raises
    ------
    UsageError
        The host's shared memory has no room for three snapshots.
    """

    def __init__(self, slots: SlotDir, task: TaskId, form: Form, *, block: int = BLOCK) -> None:
        self._slots = slots
        self._table = slots.table
        self.task = task
        self.form = form
        self._block = block
        self._own: dict[int, SlotFile] = {}
        self._version = 0
        self._newest: Held | None = None
        self._rooms = (*form.sizes, *[_PAGE] * form.variable)
        self._history_room = _HISTORY_ROOM
        try:
            self._reserve()
        except UsageError:
            self.close()
            raise

    def _reserve(self) -> None:
        """Have three slots, counting whole ones of processes that are gone: once freed, they are taken over."""
        self._adopt()
        left = [entry for entry in self._table.whole(self.task) if entry[0] not in self._own]
        left = [entry for entry in left if gone(self._table.owner(entry[0]))]
        while len(self._own) + len(left) < KEPT:
            self._add()

    def _adopt(self) -> bool:
        """Take over slots of this task that hold nothing and whose writer is gone, as many as are missing."""
        for index, cycle, _, owner, _ in self._table.others(self.task):
            if len(self._own) >= KEPT:
                break
            if gone(owner) and self._table.take(index, cycle, self.task, self._slots.owner):
                self._make(index)
        return len(self._own) > 0

    def _add(self) -> int:
        index = self._table.add(self.task, self._slots.owner)
        if index < 0:
            raise UsageError(
                f"task {self.task} gets no slot: this host has {self._table.capacity} in use; run fewer tasks on it"
            )
        self._make(index)
        return index

    def _make(self, index: int) -> None:
        """Give a slot in state MAKING its memory."""
        layout = Layout(self._block, self._rooms, self._history_room)
        try:
            self._own[index] = SlotFile.make(self._slots.file(index), layout)
        except BaseException:
            self._slots.drop(index)
            raise
        self._table.settle(index)

    # ---- writing ----

    def write(
        self,
        boundary: Epoch,
        generation: Generation,
        parts: Sequence[Part],
        *,
        delivered: Epoch = -1,
        history: History = (),
        base: Held | None = None,
    ) -> Snapshot | Refusal:
        """Copy the task's state into a slot, and find out what changed.

        Parameters
        ----------
        boundary, generation
            What the state is that of, and in which generation it came to be.
        parts
            The arrays of the form, contiguous, then the byte strings.
        delivered
            Up to which epoch `committed` has been called.
        history
            All decisions up to this generation.
        base
            The snapshot to compare with, of any writer on this host: the one resumed from, after a generation change.
            None: the newest that this holder completed, while it is there.

        Returns
        -------
        Snapshot or Refusal
            FENCED, FULL or HELD where nothing was written, FENCED also where the generation ended meanwhile.

        Raises
        ------
        UsageError
            Byte strings have grown, and there is no room.
        """
        lengths = tuple(part.nbytes if isinstance(part, np.ndarray | memoryview) else len(part) for part in parts)
        if not self.form.accepts(lengths):
            raise ValueError(f"task {self.task} protects arrays of {self.form.sizes} bytes and was given {lengths}")
        stamp = _Stamp(boundary, generation, delivered, history, lengths)

        def fill(blocks: Blocks, old: Blocks | None, version: int) -> bool:
            blocks.write(parts, old, version)
            return True

        given = base or self._newest
        old = given and self._base(given)
        done = self._put(stamp, generation, given if old else None, old, fill)
        if done is Refusal.NO_BASE:  # it went while it was compared with
            done = self._put(stamp, generation, None, None, fill)
        return done

    def apply(self, head: DeltaHead, frames: Iterable[Any], generation: Generation) -> Held | Refusal:
        """Complete a snapshot that another host sent, in a slot of this host.

        Parameters
        ----------
        head, frames
            As they were sent; the frames may be cut anywhere.
        generation
            The current one; a refill brings snapshots of older ones.

        Returns
        -------
        Held or Refusal
            HELD: acknowledge it and drop it. NO_BASE: ask for the whole. DAMAGED: what arrived, or the base, is not
            what was sent; ask for the whole. FENCED, FULL, OTHER_FORM.

        Raises
        ------
        UsageError
            Byte strings have grown, and there is no room.
        """
        if head.form != self.form.digest or not self.form.accepts(head.lengths) or head.block != self._block:
            return Refusal.OTHER_FORM
        base = old = None
        if head.base is not None:
            base = self._slots.find(self.task, head.base.boundary, head.base.generation)
            old = self._base(base) if base is not None and base.checksum == head.base.checksum else None
            if old is None:
                return Refusal.NO_BASE
        stamp = _Stamp(head.boundary, head.generation, head.delivered, head.history, head.lengths)
        pieces = list(frames)

        def fill(blocks: Blocks, old: Blocks | None, version: int) -> bool:
            whole = blocks.apply(head.lengths, head.runs, pieces, old, version)
            return whole and blocks.checksum(self.form.digest) == head.checksum

        done = self._put(stamp, generation, base, old, fill)
        return done if isinstance(done, Refusal) else done.held

    def _put(
        self, stamp: _Stamp, generation: Generation, base: Held | None, old: Blocks | None, fill: _Fill
    ) -> Snapshot | Refusal:
        """Begin a slot, fill it, complete it."""
        begun = self._begin(stamp, generation)
        if isinstance(begun, Refusal):
            return begun
        index, cycle, slot = begun
        self._version += 1
        try:
            good = fill(slot.blocks, old, self._version)
            if base is not None and not self._table.is_whole(base.slot, base.cycle):
                refusal = Refusal.NO_BASE
            elif not good:
                refusal = Refusal.DAMAGED
            else:
                held = self._complete(stamp, generation, index, cycle, slot)
                return Snapshot(held, base, slot.blocks.changes(), slot) if held else Refusal.FENCED
        except BaseException:
            self._table.cancel(index, cycle)
            raise
        self._table.cancel(index, cycle)
        return refusal

    def _begin(self, stamp: _Stamp, generation: Generation) -> tuple[int, int, SlotFile] | Refusal:
        if not self._slots.admits(generation):
            return Refusal.FENCED
        there = self._table.whole(self.task)
        if any(entry[3:] == (stamp.boundary, stamp.generation) for entry in there):
            return Refusal.HELD
        if len(there) >= KEPT:
            return Refusal.FULL
        while True:
            index = self._free_slot(stamp)
            cycle = self._table.begin(index, generation)
            if cycle == native.FENCED:
                return Refusal.FENCED
            if cycle != native.GONE:
                return index, cycle, self._own[index]

    def _complete(self, stamp: _Stamp, generation: Generation, index: int, cycle: int, slot: SlotFile) -> Held | None:
        checksum = slot.blocks.checksum(self.form.digest)
        slot.write_head(
            Head(
                cycle, self._table.run, self.task, stamp.boundary, stamp.generation, stamp.delivered,
                self.form.digest, checksum, stamp.lengths, stamp.history,
            )
        )  # fmt: skip
        if self._table.complete(index, cycle, generation, stamp.boundary, stamp.generation) == native.FENCED:
            return None
        self._newest = Held(
            self.task, stamp.boundary, stamp.generation, stamp.delivered, stamp.history, self.form.digest,
            checksum, stamp.lengths, index, cycle,
        )  # fmt: skip
        return self._newest

    def _base(self, held: Held) -> Blocks | None:
        """Return the blocks of a snapshot while it is there: ours as we know them, another's mapped for this once."""
        if not self._table.is_whole(held.slot, held.cycle):
            return None
        if held.slot in self._own:
            return self._own[held.slot].blocks
        slot = self._slots.map(held)
        return None if slot is None or slot.layout.block != self._block else slot.blocks

    # ---- room ----

    def _free_slot(self, stamp: _Stamp) -> int:
        """Return a slot of ours to begin, with room enough; there are fewer than three snapshots, so it may be had."""
        free = self._free_ones()
        if not free and len(self._own) < KEPT:
            self._adopt()
            free = self._free_ones()
        if not free:
            return self._roomy(stamp, self._add())
        fitting = [index for index in free if self._own[index].layout.fits(stamp.lengths, len(stamp.history))]
        return fitting[0] if fitting else self._roomy(stamp, free[0])

    def _free_ones(self) -> list[int]:
        return [index for index in self._own if self._table.look(index)[0] in (native.FREE, native.REFUSED)]

    def _roomy(self, stamp: _Stamp, index: int) -> int:
        """Make a free slot of ours larger, where it is too small: with a new file, and some room to grow."""
        if self._own[index].layout.fits(stamp.lengths, len(stamp.history)):
            return index
        self._rooms = tuple(
            room if n <= room else _padded(n) for n, room in zip(stamp.lengths, self._rooms, strict=True)
        )
        if len(stamp.history) > self._history_room:
            self._history_room = 2 * len(stamp.history)
        del self._own[index]
        if not self._table.take(index, self._table.look(index)[2], self.task, self._slots.owner):
            raise RuntimeError(f"slot {index} of task {self.task} was changed by another process")
        self._make(index)
        return index

    def close(self) -> None:
        """Write nothing any more. What is whole stays until a commit frees it; the memory of the rest is given back."""
        for index in self._own:
            if self._table.look(index)[0] == native.WHOLE:
                self._table.disown(index)
            else:
                self._slots.drop(index)
        self._own.clear()


def _padded(nbytes: int) -> int:
    return -(-(nbytes + nbytes // 4) // _PAGE) * _PAGE
