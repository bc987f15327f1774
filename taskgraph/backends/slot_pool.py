"""The slots that this process may write to for one task, and their memory.

They are allocated when the pool is made, so that a full host is an error there. After a failure, when nobody goes on
before all have, they are allocated as they are written to. A slot has one writer for life; one whose writer is gone, or
whose pool was closed, is taken over with its memory once it holds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskgraph._native import slots as native
from taskgraph.backends.slot_file import Form, Held, SlotFile, SlotLayout, left_in, no_room
from taskgraph.backends.slots import SlotDir, gone
from taskgraph.errors import UsageError
from taskgraph.ids import TaskId

_PAGE = 4096
_HISTORY_ROOM = 64


@dataclass(slots=True, eq=False)
class OwnSlot:
    """A slot of ours, and the snapshot that we completed there last."""

    file: SlotFile
    held: Held | None = None


class SlotPool:
    """Makes, grows and gives back the slots of one task. For one thread.

    Parameters
    ----------
    at_once
        Allocate all of them now.

    Raises
    ------
    UsageError
        The host's shared memory has no room for all slots of the task; nothing is left of them.
    """

    def __init__(self, slots: SlotDir, task: TaskId, form: Form, block: int, *, at_once: bool = True) -> None:
        self._slots = slots
        self._table = slots.table
        self._task = task
        self._block = block
        self._rooms: tuple[int, ...] = (*form.sizes, *[_PAGE] * form.variable)
        self._history_room = _HISTORY_ROOM
        self.own: dict[int, OwnSlot] = {}
        try:
            self._reserve(at_once)
        except UsageError:
            self.close()
            raise

    def _reserve(self, at_once: bool) -> None:
        """Have all slots, or room for them, counting whole ones of processes that are gone: taken over once freed."""
        self._adopt()
        whole = [entry[0] for entry in self._table.whole(self._task)]
        coming = [index for index in whole if gone(self._table.owner(index))]
        missing = self._slots.room - len(self.own) - len(coming)
        size = SlotLayout.of(self._block, self._rooms, self._history_room).size
        if missing * size > left_in(self._slots.path):
            raise no_room(self._slots.path, size, f"{missing} of them are needed")
        if at_once:
            for _ in range(missing):
                self._add()

    def _adopt(self) -> None:
        """Take over slots of this task that hold nothing and whose writer is gone, as many as are missing."""
        for index, cycle, _, owner, _ in self._table.others(self._task):
            if len(self.own) >= self._slots.room:
                return
            if gone(owner) and self._table.take(index, cycle, self._task, self._slots.owner):
                self._make(index)

    def _add(self) -> int:
        index = self._table.add(self._task, self._slots.owner)
        if index < 0:
            raise UsageError(
                f"task {self._task} gets no slot: this host has {self._table.capacity} in use; run fewer tasks on it"
            )
        self._make(index)
        return index

    def _make(self, index: int) -> None:
        """Give a slot in state MAKING its memory."""
        layout = SlotLayout.of(self._block, self._rooms, self._history_room)
        try:
            self.own[index] = OwnSlot(SlotFile.make(self._slots.file(index), layout))
        except BaseException:
            self._slots.drop(index)
            raise
        self._table.settle(index)

    def ready(self, lengths: Sequence[int], pairs: int) -> int:
        """Return a slot to begin, with room for parts of these lengths and so many pairs of history.

        To be asked while the host holds fewer snapshots of the task than it may: there is one then, or it is made.

        Raises
        ------
        UsageError
            It needs more room than there is.
        """
        for index, own in self.own.items():
            if self._table.is_free(index) and own.file.layout.fits(lengths, pairs):
                return index
        free = self._free()
        if free is None and len(self.own) < self._slots.room:
            self._adopt()
            free = self._free()
        if free is None:
            free = self._add()
        fits = self.own[free].file.layout.fits(lengths, pairs)
        return free if fits else self._grow(free, lengths, pairs)

    def _free(self) -> int | None:
        return next((index for index in self.own if self._table.is_free(index)), None)

    def _grow(self, index: int, lengths: Sequence[int], pairs: int) -> int:
        """Replace the file of a free slot by a larger one, with some room to grow further."""
        self._rooms = tuple(room if n <= room else _padded(n) for n, room in zip(lengths, self._rooms, strict=True))
        if pairs > self._history_room:
            self._history_room = 2 * pairs
        del self.own[index]
        if not self._table.take(index, self._table.look(index)[2], self._task, self._slots.owner):
            raise RuntimeError(f"slot {index} of task {self._task} was changed by another process")
        self._make(index)
        return index

    def close(self) -> None:
        """Write nothing any more. What is whole stays until a commit frees it; the memory of the rest is given back."""
        for index in self.own:
            if self._table.look(index)[0] == native.WHOLE:
                self._table.disown(index)
            else:
                self._slots.drop(index)
        self.own.clear()


def _padded(nbytes: int) -> int:
    return -(-(nbytes + nbytes // 4) // _PAGE) * _PAGE
