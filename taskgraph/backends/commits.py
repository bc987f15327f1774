"""What the ranks of a host have heard of commits, and that the job is over: kept in shared memory, outliving them.

One file, 128 bytes a rank, which only that rank writes: two records, used in turn, each with a check, so that a rank
killed in the middle of one leaves the one before. Readers take the newest that is right.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from taskgraph.plan.holdings import NOTHING_KNOWN, Known
from taskgraph.plan.succession import Over

LINE = 128
_RECORD = struct.Struct("<7q")  # five of `Known`, then generation and status of `Over`
_CHECK = struct.Struct("<I")
_ROOM = LINE // 2
_WHOLE = _RECORD.size + _CHECK.size
_NOT_OVER = Over(-1, 0)


class Commits:
    """The records of all ranks of one host, by local index."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._turn = 0
        self._known = NOTHING_KNOWN
        self._over = _NOT_OVER

    @classmethod
    def create(cls, path: Path, ranks: int) -> None:
        """Make the file for so many ranks. Raises FileExistsError, or OSError where no space is left."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, ranks * LINE)
        finally:
            os.close(descriptor)

    @classmethod
    def open(cls, path: Path) -> Commits:
        """Map a file that `create` made. Raises ValueError where it is none."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(descriptor).st_size
            if size == 0 or size % LINE:
                raise ValueError(f"{path} is no file of commits: it has {size} bytes")
            return cls(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)

    def heard(self, index: int, known: Known) -> None:
        """Write down what a commit said, on behalf of one rank."""
        if known > self._known:
            self._known = known
            self._write(index)

    def mark_over(self, index: int, over: Over) -> None:
        """Write down that a generation of the job is over."""
        self._over = over
        self._write(index)

    def read(self) -> tuple[Known, Over | None]:
        """Return the newest of what the ranks have written."""
        records = list(self._records())
        known = max((Known(*record[:5]) for record in records), default=NOTHING_KNOWN)
        generation, status = max((record[5:7] for record in records), default=(-1, 0))
        return known, None if generation < 0 else Over(generation, status)

    def _write(self, index: int) -> None:
        record = _RECORD.pack(*self._known, self._over.generation, self._over.status)
        at = index * LINE + self._turn * _ROOM
        self._turn = 1 - self._turn
        self._memory[at : at + _WHOLE] = record + _CHECK.pack(crc32(record) | 1)

    def _records(self) -> Iterator[tuple[int, ...]]:
        for at in range(0, len(self._memory), _ROOM):
            record = self._memory[at : at + _RECORD.size]
            (check,) = _CHECK.unpack_from(self._memory, at + _RECORD.size)
            if check == crc32(record) | 1:  # never 0, which fresh memory has
                yield _RECORD.unpack(record)

    def close(self) -> None:
        """Let go of the file."""
        self._memory.close()
