"""The file of one slot: where everything lies in it, and its head, which says what snapshot it holds.

::

    0        head (`taskgraph._native.slothead`)
    256      room of each part, length of each part, pairs of the history, hashes of all blocks
    ...      the parts, each at a multiple of 64

Readers believe nothing of it before its check is right and every number lies within the file; the check covers the
head, rooms, lengths and history, and the checksum in it covers lengths and hashes, and so the content. Heads are read
with `pread`, and what is mapped afterwards lies within the file's size.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taskgraph._native import slothead
from taskgraph._native.blocks import Blocks
from taskgraph._native.slothead import SlotHead
from taskgraph.errors import UsageError
from taskgraph.ids import Epoch, Generation, TaskId

BLOCK = 16 << 10
"""Bytes of a block. Measured: 8 to 32 KiB cost the same, 4 and 64 more; smaller ones send less."""

History: TypeAlias = tuple[tuple[Generation, Epoch], ...]
"""Pairs of a generation and the boundary that its decision resumed from, upwards."""

Part: TypeAlias = "NDArray[Any] | bytes | bytearray | memoryview"

_FIRST_READ = 4096


@dataclass(frozen=True, slots=True)
class Form:
    """What a task protects: arrays of fixed sizes, then byte strings of any. Equal forms have equal digests."""

    sizes: tuple[int, ...]
    """Bytes of each array."""
    variable: int
    """Number of byte strings."""
    digest: int
    """Of the names, dtypes, shapes and orders: a snapshot restores only into what has the same."""

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Form:
        """Describe protected state: arrays, and whatever else there is by name, which counts as byte strings."""
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        shapes = [(n, np.lib.format.dtype_to_descr(a.dtype), a.shape, a.flags.c_contiguous) for n, a in arrays.items()]
        others = [name for name in state if name not in arrays]
        text = repr((shapes, others)).encode()
        number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        return cls(tuple(array.nbytes for array in arrays.values()), len(others), number)

    def accepts(self, lengths: Sequence[int]) -> bool:
        """Whether parts of these lengths may be a snapshot of this form."""
        return len(lengths) == len(self.sizes) + self.variable and tuple(lengths[: len(self.sizes)]) == self.sizes


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """Where things lie in a file that has this room."""

    block: int
    rooms: tuple[int, ...]
    history_room: int
    history_at: int
    hashes_at: int
    starts: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, block: int, rooms: Sequence[int], history_room: int) -> SlotLayout:
        """Lay a file out: so much room for each part, and for so many pairs of history."""
        history_at = slothead.SIZE + 16 * len(rooms)
        hashes_at = history_at + 16 * history_room
        data = hashes_at + 8 * sum(-(-room // block) for room in rooms)
        starts = tuple(itertools.accumulate((_aligned(room) for room in rooms), initial=_aligned(data)))
        return cls(block, tuple(rooms), history_room, history_at, hashes_at, starts[:-1], starts[-1])

    def fits(self, lengths: Sequence[int], pairs: int) -> bool:
        """Whether a snapshot of these lengths, with so many pairs of history, has room."""
        if tuple(lengths) == self.rooms:
            return pairs <= self.history_room
        return pairs <= self.history_room and all(n <= room for n, room in zip(lengths, self.rooms, strict=True))


class Held(NamedTuple):
    """A whole snapshot, and where it lies."""

    task: TaskId
    boundary: Epoch
    generation: Generation
    """That wrote it, here or on another host."""
    note: int
    """64 bits of the writer's, kept and sent along."""
    history: History
    """The decisions up to `generation`."""
    form: int
    checksum: int
    lengths: tuple[int, ...]
    """Bytes of each part."""
    slot: int
    cycle: int
    """Which content of that slot it is."""


@functools.lru_cache(1024)
def _rest(rooms: tuple[int, ...], lengths: tuple[int, ...], history: History) -> bytes:
    """Return what follows the head; as a rule it is that of the snapshot before."""
    pairs = [number for pair in history for number in pair]
    return struct.pack(f"<{len(rooms)}Q{len(lengths)}Q{'Qq' * len(history)}", *rooms, *lengths, *pairs)


def read_head(descriptor: int, slot: int, run: bytes) -> tuple[Held, SlotLayout] | None:
    """Read the head of a slot's file. None where it holds none, one of another run, or a damaged one."""
    size = os.fstat(descriptor).st_size
    start = os.pread(descriptor, _FIRST_READ, 0)
    found = slothead.fields(start, run)
    if found is None:
        return None
    cycle, task, boundary, generation, note, form, block, parts, pairs, history_room, checksum = found
    end = slothead.SIZE + 16 * parts + 16 * pairs
    if end > size or pairs > history_room or block == 0 or block % 1024:
        return None
    if end > len(start):
        start += os.pread(descriptor, end - len(start), len(start))
    if len(start) < end or not slothead.is_intact(start[:end]):
        return None
    numbers = struct.unpack_from(f"<{2 * parts}Q", start, slothead.SIZE)
    layout = SlotLayout.of(block, numbers[:parts], history_room)
    lengths = numbers[parts:]
    if layout.size > size or not layout.fits(lengths, pairs):
        return None
    history = tuple(struct.iter_unpack("<Qq", start[layout.history_at : end]))
    return Held(task, boundary, generation, note, history, form, checksum, lengths, slot, cycle), layout


@dataclass(frozen=True, slots=True, eq=False)
class SlotFile:
    """A mapped slot."""

    layout: SlotLayout
    memory: mmap.mmap
    blocks: Blocks
    head: SlotHead | None
    """To be written, where it is one of the caller."""

    @classmethod
    def make(cls, path: Path, layout: SlotLayout) -> SlotFile:
        """Map a file for a slot of the caller. One that is there and large enough is used, any other replaced.

        Raises
        ------
        UsageError
            There is no room for it; nothing is left of it.
        """
        descriptor = _open_or_none(path)
        if descriptor is not None and os.fstat(descriptor).st_size != layout.size:
            os.close(descriptor)
            descriptor = None
        if descriptor is None:
            path.unlink(missing_ok=True)  # before the new one: its content is of no use, but its memory is
            descriptor = _allocate(path, layout.size)
        try:
            memory = mmap.mmap(descriptor, layout.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        finally:
            os.close(descriptor)
        blocks = Blocks(memory, layout.block, layout.rooms, layout.starts, layout.hashes_at)
        head = SlotHead(memory, layout.block, len(layout.rooms), layout.history_room)
        return cls(layout, memory, blocks, head)

    @classmethod
    def open(cls, descriptor: int, lengths: Sequence[int], layout: SlotLayout) -> SlotFile:
        """Map a slot of somebody else, read-only."""
        memory = mmap.mmap(descriptor, layout.size, prot=mmap.PROT_READ)
        blocks = Blocks(memory, layout.block, layout.rooms, layout.starts, layout.hashes_at, lengths, writable=False)
        return cls(layout, memory, blocks, None)

    def rest(self, lengths: tuple[int, ...], history: History) -> bytes:
        """Return what follows the head of a snapshot in this slot, up to the end of the history."""
        return _rest(self.layout.rooms, lengths, history)

    def write_head(
        self,
        cycle: int,
        run: bytes,
        task: TaskId,
        boundary: Epoch,
        generation: Generation,
        note: int,
        history: History,
        form: int,
        lengths: tuple[int, ...],
    ) -> int:
        """Say what the slot holds, before it is made whole. Return the checksum of the snapshot."""
        assert self.head is not None, "a slot of somebody else"
        checksum = self.blocks.checksum(form)
        rest = self.rest(lengths, history)
        self.head.write(cycle, run, task, boundary, generation, note, form, checksum, len(history), rest)
        return checksum


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


def _open_or_none(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


def _allocate(path: Path, size: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)  # a full tmpfs is an error here, not a SIGBUS later
    except OSError as error:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise no_room(path.parent, size, str(error.strerror)) from error
    return descriptor


def left_in(directory: Path) -> int:
    """Return how many bytes there is room for where the slots of a host lie."""
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize


def no_room(directory: Path, size: int, why: str) -> UsageError:
    """Return the error for a slot of so many bytes that does not fit."""
    return UsageError(
        f"no room for a snapshot of protected state: it takes {size} bytes, and {directory} has {left_in(directory)} "
        f"left ({why}). Give it more (mount -o remount,size=, docker --shm-size=), protect less state, or run fewer "
        "ranks on this host"
    )
