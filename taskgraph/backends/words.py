"""The abort words of a host: how whoever knows that a rank must stop tells it, whatever the rank is doing.

A file of the host's directory, mapped by each rank and by the keeper, one line of 64 bytes for each rank of the host,
so that no two ranks share a cache line::

    word 0   abort: 0 = run on; g > 0 = every generation below g is over; OVER = the job is over
    word 1   progress: the epoch that the rank is in
    word 2   working: the task whose code the rank runs, plus 1; 0 = of none
    word 3   when it entered that epoch, in ns since 1970; 0 = it has entered none yet
    4 .. 7   reserved

Words 1 to 3 are written by the rank itself, in compiled code (`taskgraph._native.channel.Epoch.mark_in`).

The rank polls word 0 while it waits in C without the GIL. Words are aligned 8-byte integers, which the processors that
we run on write and read in one piece.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

from taskgraph.ids import Epoch, TaskId

OVER = -1
"""The abort word that says that the job is over. It is never taken back."""

LINE = 64
_PROGRESS, _WORKING, _ENTERED = 1, 2, 3
_WORDS = LINE // 8


class AbortWords:
    """The words of all ranks of one host, by local index."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("q")

    @classmethod
    def create(cls, path: Path, ranks: int) -> AbortWords:
        """Make the file for so many ranks, every word 0.

        Raises
        ------
        FileExistsError
        OSError
            No space is left where the file lies.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, ranks * LINE)  # a full tmpfs is an error here, not a SIGBUS later
            return cls(mmap.mmap(descriptor, ranks * LINE))
        finally:
            os.close(descriptor)

    @classmethod
    def open(cls, path: Path) -> AbortWords:
        """Map a file that `create` made."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(descriptor).st_size
            if size == 0 or size % LINE:
                raise ValueError(f"{path} is no file of abort words: it has {size} bytes")
            return cls(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)

    def __len__(self) -> int:
        return len(self._words) // _WORDS

    def set(self, index: int, value: int) -> None:
        """Set one rank's abort word. It only ever advances: towards higher generations, then `OVER`.

        Two writers at one moment can still leave the lower value; so whoever holds that the job is over says so again.
        """
        now = self._words[index * _WORDS]
        if now != OVER and (value == OVER or value > now):
            self._words[index * _WORDS] = value

    def set_all(self, value: int) -> None:
        """Set the abort word of every rank of the host."""
        for index in range(len(self)):
            self.set(index, value)

    def get(self, index: int) -> int:
        """Return one rank's abort word."""
        return self._words[index * _WORDS]

    def progress(self, index: int) -> int:
        """Return the epoch that a rank says it is in."""
        return self._words[index * _WORDS + _PROGRESS]

    def reached(self, index: int) -> tuple[Epoch, float] | None:
        """Return the epoch that a rank is in, and since when, in seconds since 1970; None: it has entered none yet."""
        entered_ns = self._words[index * _WORDS + _ENTERED]
        return (self.progress(index), entered_ns / 1e9) if entered_ns else None

    def working(self, index: int) -> tuple[TaskId, Epoch] | None:
        """Return the task whose code a rank runs, or ran when it died, and its epoch; None: it ran none."""
        task = self._words[index * _WORDS + _WORKING] - 1
        return None if task < 0 else (task, self.progress(index))

    def rest(self, index: int) -> None:
        """Say for a rank that it runs code of no task."""
        self._words[index * _WORDS + _WORKING] = 0

    def buffer(self, index: int) -> memoryview:
        """Return the line of one rank: 64 writable bytes, aligned to 64. It keeps the mapping alive."""
        return memoryview(self._memory)[index * LINE : (index + 1) * LINE]

    def mark(self, index: int) -> memoryview:
        """Return the words of one rank in which it says where it is, as signed integers."""
        return self.buffer(index).cast("q")[_PROGRESS:]

    def close(self) -> None:
        """Let go of the file; memory that is still lent out by `buffer` stays mapped until it is returned."""
        self._words.release()
        with contextlib.suppress(BufferError):
            self._memory.close()
