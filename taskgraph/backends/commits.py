"""What the ranks of a host have heard of commits, and that the job is over: one file, a line for each rank."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from taskgraph._native import commitline
from taskgraph._native.commitline import LINE, CommitLine
from taskgraph.plan.acts import Over
from taskgraph.plan.holdings import NOTHING_KNOWN, Known


class Commits:
    """The lines of all ranks of one host, by local index."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

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

    def line(self, index: int) -> CommitLine:
        """Return where one rank writes."""
        return CommitLine(self._memory, index)

    def read(self) -> tuple[Known, Over | None]:
        """Return the newest of what the ranks have written."""
        records = commitline.read(self._memory)
        known = max((Known(*record[:5]) for record in records), default=NOTHING_KNOWN)
        generation, status = max((record[5:7] for record in records), default=(-1, 0))
        return known, None if generation < 0 else Over(generation, status)

    def close(self) -> None:
        """Let go of the file, which nobody writes to any more."""
        self._memory.close()
