"""The file of one slot: where everything lies in it, and its head, which says what snapshot it holds.

::

    0        head: fixed fields, then at 248 the check of the head
    256      room of each part, length of each part, pairs of the history, hashes of all blocks
    ...      the parts, each at a multiple of 64

Readers believe nothing of it before its check is right and every number lies within the file; the check covers the
head, rooms, lengths and history, and the checksum in it covers lengths and hashes, and so the content. Heads are read
with `pread`, so a file that was cut short is no SIGBUS.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taskgraph._native.blocks import Blocks, digest
from taskgraph.errors import UsageError
from taskgraph.ids import Epoch, Generation, TaskId

BLOCK = 16 << 10
"""Bytes of a block. Measured: 8 to 32 KiB cost the same, 4 and 64 more; smaller ones send less."""

History: TypeAlias = tuple[tuple[Generation, Epoch], ...]
"""Pairs of a generation and the boundary that its decision resumed from, upwards."""

Part: TypeAlias = "NDArray[Any] | bytes | bytearray | memoryview"

_HEAD = struct.Struct("<8sQ16sqqQqQIIIIQ")
_CHECK = struct.Struct("<Q")
_CHECK_AT = 248
_META = 256
_MAGIC = b"tgsnap1\0"
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


@dataclass(frozen=True)
class Layout:
    """Where things lie in a file that has this room."""

    block: int
    rooms: tuple[int, ...]
    history_room: int

    @property
    def lengths_at(self) -> int:
        """Of the lengths of the parts."""
        return _META + 8 * len(self.rooms)

    @property
    def history_at(self) -> int:
        """Of the pairs of the history."""
        return _META + 16 * len(self.rooms)

    @property
    def hashes_at(self) -> int:
        """Of the table of hashes."""
        return self.history_at + 16 * self.history_room

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Of each part, and last the size of the file."""
        data = self.hashes_at + 8 * sum(-(-room // self.block) for room in self.rooms)
        places = itertools.accumulate((-(-room // 64) * 64 for room in self.rooms), initial=-(-data // 64) * 64)
        return tuple(places)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.starts[-1]

    def fits(self, lengths: Sequence[int], pairs: int) -> bool:
        """Whether a snapshot of these lengths, with so many pairs of history, has room."""
        return pairs <= self.history_room and all(n <= room for n, room in zip(lengths, self.rooms, strict=True))


class Head(NamedTuple):
    """What a slot says of the snapshot that it holds."""

    cycle: int
    run: bytes
    task: TaskId
    boundary: Epoch
    generation: Generation
    delivered: Epoch
    form: int
    checksum: int
    lengths: tuple[int, ...]
    history: History


def encode(head: Head, layout: Layout) -> bytes:
    """Return the first bytes of a file, up to the history's end."""
    parts, pairs = len(head.lengths), len(head.history)
    fixed = _HEAD.pack(
        _MAGIC, head.cycle, head.run, head.task, head.boundary, head.generation, head.delivered, head.form,
        layout.block, parts, pairs, layout.history_room, head.checksum,
    ).ljust(_CHECK_AT, b"\0")  # fmt: skip
    rest = struct.pack(f"<{2 * parts}Q", *layout.rooms, *head.lengths)
    rest += b"".join(struct.pack("<Qq", *pair) for pair in head.history)
    return fixed + _CHECK.pack(digest(fixed + rest)) + rest


def read_head(descriptor: int) -> tuple[Head, Layout] | None:
    """Read the head of a slot's file. None where it holds none, or a damaged one."""
    size = os.fstat(descriptor).st_size
    start = os.pread(descriptor, _FIRST_READ, 0)
    if len(start) < _META:
        return None
    (magic, cycle, run, task, boundary, generation, delivered, form,
     block, parts, pairs, history_room, checksum) = _HEAD.unpack_from(start)  # fmt: skip
    end = _META + 16 * parts + 16 * pairs
    if magic != _MAGIC or end > size or pairs > history_room or block == 0 or block % 1024:
        return None
    if end > len(start):
        start += os.pread(descriptor, end - len(start), len(start))
    if len(start) < end or digest(start[:_CHECK_AT] + start[_META:end]) != _CHECK.unpack_from(start, _CHECK_AT)[0]:
        return None
    numbers = struct.unpack_from(f"<{2 * parts}Q", start, _META)
    layout = Layout(block, numbers[:parts], history_room)
    lengths = numbers[parts:]
    if layout.size > size or not layout.fits(lengths, pairs):
        return None
    history = tuple(struct.iter_unpack("<Qq", start[layout.history_at : end]))
    return Head(cycle, run, task, boundary, generation, delivered, form, checksum, lengths, history), layout


@dataclass(frozen=True, slots=True, eq=False)
class SlotFile:
    """A mapped slot."""

    layout: Layout
    memory: mmap.mmap
    blocks: Blocks

    @classmethod
    def make(cls, path: Path, layout: Layout) -> SlotFile:
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
        return cls(layout, memory, Blocks(memory, layout.block, layout.rooms, layout.starts[:-1], layout.hashes_at))

    @classmethod
    def open(cls, descriptor: int, head: Head, layout: Layout) -> SlotFile:
        """Map a slot of somebody else, read-only."""
        memory = mmap.mmap(descriptor, layout.size, prot=mmap.PROT_READ)
        blocks = Blocks(
            memory, layout.block, layout.rooms, layout.starts[:-1], layout.hashes_at, head.lengths, writable=False
        )
        return cls(layout, memory, blocks)

    def write_head(self, head: Head) -> None:
        """Say what the slot holds, before it is made whole."""
        content = encode(head, self.layout)
        self.memory[: len(content)] = content


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
        space = os.statvfs(path.parent)
        raise UsageError(
            f"no room for a snapshot of protected state: it takes {size} bytes, and {path.parent} has "
            f"{space.f_bavail * space.f_frsize} left ({error.strerror}). Give it more (mount -o remount,size=, docker "
            "--shm-size=), protect less state, or run fewer ranks on this host"
        ) from error
    return descriptor
