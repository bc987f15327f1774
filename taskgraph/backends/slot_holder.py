"""The snapshots that this process writes of one task: as its primary from the arrays, as a backup from what arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taskgraph import trace
from taskgraph._native import slots as native
from taskgraph._native.blocks import Blocks
from taskgraph._native.slotwriter import SlotWriter
from taskgraph.backends.slot_delta import DeltaHead, Snapshot
from taskgraph.backends.slot_file import BLOCK, Form, Held, History, Part
from taskgraph.backends.slot_pool import SlotPool
from taskgraph.backends.slots import Refusal, SlotDir
from taskgraph.ids import Epoch, Generation, TaskId

_Fill: TypeAlias = Callable[[Blocks, Blocks | None], bool]


_REFUSALS = {native.FENCED: Refusal.FENCED, native.HELD: Refusal.HELD, native.FULL: Refusal.FULL}


class Draft(NamedTuple):
    """What is to be written: as in `Held`."""

    boundary: Epoch
    generation: Generation
    note: int
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
    at_once
        Allocate all slots now, not when they are written to.

    Raises
    ------
    UsageError
        The host's shared memory has no room for all slots of the task.
    """

    def __init__(self, slots: SlotDir, task: TaskId, form: Form, *, block: int = BLOCK, at_once: bool = True) -> None:
        self._slots = slots
        self._table = slots.table
        self.task = task
        self.form = form
        self._block = block
        self._run = self._table.run
        self._pool = SlotPool(slots, task, form, block, at_once=at_once)
        self._version = 0
        self.writer = SlotWriter(self._table, task, form.digest, slots.room)
        self._newest: Held | None = None
        self._before: Held | None = None  # what the newest was compared with, where that was repeated

    # ---- writing ----

    def write(
        self,
        boundary: Epoch,
        generation: Generation,
        parts: Sequence[Part],
        *,
        note: int = -1,
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
        note
            64 bits that are kept with the snapshot.
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
        lengths = tuple([part.nbytes if isinstance(part, np.ndarray | memoryview) else len(part) for part in parts])
        if not self.form.accepts(lengths):
            raise ValueError(f"task {self.task} protects arrays of {self.form.sizes} bytes and was given {lengths}")
        draft = Draft(boundary, generation, note, history, lengths)
        self._catch_up()

        def fill(blocks: Blocks, old: Blocks | None) -> bool:
            blocks.write(parts, old, self._version)
            trace.reached("snapshot.middle")
            return True

        base = base or self._newest
        done = self._put(draft, generation, base, self._base(base), fill)
        if done is Refusal.NO_BASE:  # it went while it was compared with
            done = self._put(draft, generation, None, None, fill)
        return done

    def prepare(self, arrays: Sequence[NDArray[Any]] | None) -> None:
        """Make ready to repeat what was just written: a snapshot of these arrays, and no byte strings.

        None: what was just applied. Copies that follow are taken by `writer`, not by `repeat`.
        """
        last = self._newest
        if last is None or self.form.variable:
            return
        pairs = len(last.history)
        slots = [
            (index, own.file.blocks, own.file.head)
            for index, own in self._pool.own.items()
            if own.file.head is not None and own.file.layout.fits(last.lengths, pairs)
        ]
        rest = self._pool.own[last.slot].file.rest(last.lengths, last.history)
        self.writer.repeat(
            last.generation, arrays, rest, pairs, slots, last.slot, last.cycle, last.boundary, last.checksum
        )

    def repeat(self, boundary: Epoch, generation: Generation, note: int) -> bool:
        """Write another snapshot of the arrays of `prepare`, in the same generation and in few steps.

        Returns
        -------
        bool
            False: nothing was written; `write` tells why, or does it.
        """
        return self.writer.write(boundary, generation, note)

    def repeated(self, boundary: Epoch, generation: Generation) -> Snapshot | None:
        """Return what `repeat` has written last, if it is this snapshot: for a copy."""
        self._catch_up()
        if self._newest is None or self._before is None or self._newest[1:3] != (boundary, generation):
            return None
        slot = self._pool.own[self._newest.slot].file
        return Snapshot(self._newest, self._before, slot.blocks.changes(), slot)

    def wrote(self, boundary: Epoch, generation: Generation) -> bool:
        """Tell whether this is the snapshot that was written last."""
        self._catch_up()
        return self._newest is not None and self._newest[1:3] == (boundary, generation)

    def _catch_up(self) -> None:
        """Learn what the writer has written."""
        last = self._newest
        if last is None or self.writer.version == self._version:
            return
        self._version = self.writer.version
        for index, boundary, note, checksum, cycle in self.writer.written():
            held = Held(
                self.task,
                boundary,
                last.generation,
                note,
                last.history,
                last.form,
                checksum,
                last.lengths,
                index,
                cycle,
            )
            self._before, self._newest = self._newest, held
            self._pool.own[index].held = held

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
        self._catch_up()
        base = old = None
        if head.base is not None:
            base = self.find(head.base.boundary, head.base.generation)
            old = self._base(base) if base is not None and base.checksum == head.base.checksum else None
            if old is None:
                return Refusal.NO_BASE
        pieces = list(frames)
        draft = Draft(head.boundary, head.generation, head.note, head.history, head.lengths)

        def fill(blocks: Blocks, old: Blocks | None) -> bool:
            whole = blocks.apply(head.lengths, head.runs, pieces, old, self._version)
            trace.reached("replicate.filled")
            return whole and blocks.checksum(head.form) == head.checksum

        done = self._put(draft, generation, base, old, fill)
        return done if isinstance(done, Refusal) else done.held

    def _put(
        self, draft: Draft, generation: Generation, base: Held | None, old: Blocks | None, fill: _Fill
    ) -> Snapshot | Refusal:
        """Begin a slot, fill it, complete it."""
        table, (boundary, wrote, note, history, lengths) = self._table, draft
        self.writer.forget()
        refused = table.refuses(self.task, boundary, wrote, self._slots.room, generation)
        cycle = native.GONE
        while not refused and cycle == native.GONE:
            index = self._pool.ready(lengths, len(history))
            cycle = table.begin(index, generation)
            refused = cycle if cycle == native.FENCED else 0
        if refused:
            return _REFUSALS[refused]
        own = self._pool.own[index]
        slot = own.file
        self._version = self.writer.version = self.writer.version + 1
        try:
            good = fill(slot.blocks, old)
            if base is not None and old is not None and not table.is_whole(base.slot, base.cycle):
                refusal = Refusal.NO_BASE
            elif not good:
                refusal = Refusal.DAMAGED
            else:
                form = self.form.digest
                checksum = slot.write_head(cycle, self._run, self.task, boundary, wrote, note, history, form, lengths)
                if table.complete(index, cycle, generation, boundary, wrote) == native.FENCED:
                    return Refusal.FENCED
                held = Held(self.task, boundary, wrote, note, history, form, checksum, lengths, index, cycle)
                self._newest, self._before = held, None
                own.held = held
                return Snapshot(held, base if old else None, slot.blocks.changes(), slot)
        except BaseException:
            table.cancel(index, cycle)
            raise
        table.cancel(index, cycle)
        return refusal

    def _base(self, held: Held | None) -> Blocks | None:
        """Return the blocks of a snapshot while it is there: ours as we know them, another's mapped for this once."""
        if held is None or not self._table.is_whole(held.slot, held.cycle):
            return None
        own = self._pool.own.get(held.slot)
        slot = own.file if own else self._slots.map(held)
        return None if slot is None or slot.layout.block != self._block else slot.blocks

    # ---- reading ----

    def find(self, boundary: Epoch, generation: Generation) -> Held | None:
        """Return a snapshot of the task that this host holds, of any writer."""
        self._catch_up()
        for own in self._pool.own.values():
            held = own.held
            if held and held[1:3] == (boundary, generation) and self._table.is_whole(held.slot, held.cycle):
                return held
        return self._slots.find(self.task, boundary, generation)

    def read(self, held: Held, arrays: Sequence[NDArray[Any]]) -> list[bytes] | Refusal:
        """Copy a snapshot into the task's arrays, as `SlotDir.read`, but for our own without mapping it again."""
        self._catch_up()
        own = self._pool.own.get(held.slot)
        if own is None or own.held != held:
            return self._slots.read(held, arrays)
        return self._slots.read_mapped(held, own.file, arrays)

    def close(self) -> None:
        """Write nothing any more. What is whole stays until a commit frees it; the memory of the rest is given back."""
        self.writer.forget()
        self._pool.close()
