"""A snapshot on its way to another host: a header that says what changed since which base, and the bytes themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from taskgraph._native import deltahead
from taskgraph._native.slotwriter import MAX_FRAMES
from taskgraph.backends.slot_file import Held, History, SlotFile
from taskgraph.backends.slots import SlotDir
from taskgraph.ids import Epoch, Generation, TaskId

Run: TypeAlias = tuple[int, int, int]
"""(part, first block, number of blocks)"""


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
        return deltahead.encode(*self)

    @classmethod
    def decode(cls, header: bytes) -> DeltaHead:
        """Read a header.

        Raises
        ------
        ValueError
            It is none, or has a wrong bit.
        """
        (task, boundary, generation, note, history, form, checksum,
         block, lengths, base, runs, nbytes) = deltahead.decode(header)  # fmt: skip
        return cls(
            task, boundary, generation, note, history, form, checksum,
            block, lengths, base and Base(*base), runs, nbytes,
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
