"""A snapshot on its way to another host: a header that says what changed since which base, and the bytes themselves."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from taskgraph._native.blocks import digest
from taskgraph.backends.slot_file import Held, History, SlotFile
from taskgraph.backends.slots import SlotDir
from taskgraph.ids import Epoch, Generation, TaskId

MAX_FRAMES = 64
"""Changes in more places than this are gathered into one frame, which costs a copy of them."""

Run: TypeAlias = tuple[int, int, int]
"""(part, first block, number of blocks)"""

_FIXED = struct.Struct("<4sqqQqQQIIIIQqQQ")
_PAIR = struct.Struct("<Qq")
_RUN = struct.Struct("<3Q")
_CHECK = struct.Struct("<Q")
_MAGIC = b"tgd1"


class Base(NamedTuple):
    """The snapshot that another is a change of."""

    boundary: Epoch
    generation: Generation
    checksum: int


class DeltaHead(NamedTuple):
    """What a header says."""

    task: TaskId
    boundary: Epoch
    generation: Generation
    """That wrote the snapshot."""
    note: int
    history: History
    form: int
    checksum: int
    """Of the whole snapshot, when the changes have been applied."""
    block: int
    lengths: tuple[int, ...]
    base: Base | None
    """None: the whole is sent."""
    runs: tuple[Run, ...]
    nbytes: int
    """Of all frames together."""

    def encode(self) -> bytes:
        """Return the header."""
        base = self.base or Base(0, 0, 0)
        fixed = _FIXED.pack(
            _MAGIC, self.task, self.boundary, self.generation, self.note, self.form, self.checksum,
            self.block, len(self.lengths), len(self.history), len(self.runs), self.base is not None, *base,
        )  # fmt: skip
        pairs = b"".join([_PAIR.pack(*pair) for pair in self.history])
        runs = b"".join([_RUN.pack(*run) for run in self.runs])
        content = fixed + struct.pack(f"<{len(self.lengths)}QQ", *self.lengths, self.nbytes) + pairs + runs
        return content + _CHECK.pack(digest(content))

    @classmethod
    def decode(cls, header: bytes) -> DeltaHead:
        """Read a header.

        Raises
        ------
        ValueError
            It is none. One with a wrong bit is none: the lengths in it decide how much memory is made.
        """
        header, check = header[: -_CHECK.size], header[-_CHECK.size :]
        if len(header) < _FIXED.size or _CHECK.pack(digest(header)) != check:
            raise ValueError(f"{len(header)} bytes that are no header of a snapshot")
        (magic, task, boundary, generation, note, form, checksum,
         block, parts, pairs, runs, has_base, *base) = _FIXED.unpack_from(header)  # fmt: skip
        pairs_at = _FIXED.size + 8 * parts + 8
        runs_at = pairs_at + 16 * pairs
        if magic != _MAGIC or len(header) != runs_at + 24 * runs or has_base > 1:
            raise ValueError(f"{len(header)} bytes that are no header of a snapshot")
        *lengths, nbytes = struct.unpack_from(f"<{parts}QQ", header, _FIXED.size)
        return cls(
            task, boundary, generation, note, tuple(_PAIR.iter_unpack(header[pairs_at:runs_at])),
            form, checksum, block, tuple(lengths), Base(*base) if has_base else None,
            tuple(_RUN.iter_unpack(header[runs_at:])), nbytes,
        )  # fmt: skip


class Delta(NamedTuple):
    """A header, and the memory that goes with it.

    The frames lend the slot's own memory: it stays mapped as long as they are referenced. If the slot is written to
    before they have been sent, the receiver finds the checksum wrong.
    """

    head: DeltaHead
    frames: list[memoryview]


def delta(slot: SlotFile, held: Held, runs: Sequence[Run], base: Held | None) -> Delta:
    """Return what is to be sent of a snapshot that lies in a mapped slot."""
    places = [slot.blocks.place(run) for run in runs]
    memory = memoryview(slot.memory)
    frames = [memory[at : at + nbytes] for at, nbytes in places]
    if len(frames) > MAX_FRAMES:
        frames = [memoryview(b"".join(frames))]
    head = DeltaHead(
        held.task, held.boundary, held.generation, held.note, held.history, held.form, held.checksum,
        slot.layout.block, held.lengths, base and Base(base.boundary, base.generation, base.checksum), tuple(runs),
        sum(nbytes for _, nbytes in places),
    )  # fmt: skip
    return Delta(head, frames)


class Snapshot(NamedTuple):
    """A snapshot that was just written, and what it changed."""

    held: Held
    base: Held | None
    """What it was compared with."""
    runs: list[tuple[int, int, int]]
    slot: SlotFile

    def delta(self) -> Delta:
        """Return what changed since the base, to be sent to who has it; without a base, everything."""
        return delta(self.slot, self.held, self.runs, self.base)

    def whole(self) -> Delta:
        """Return everything, to be sent to who has no base."""
        return delta(self.slot, self.held, self.slot.blocks.everything(), None)


def send_held(slots: SlotDir, held: Held) -> Delta | None:
    """Return everything of a snapshot of this host, whoever wrote it. None where it is not there any more."""
    slot = slots.map(held)
    return None if slot is None else delta(slot, held, slot.blocks.everything(), None)
