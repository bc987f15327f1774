"""One process, looked at often and closely: whether it is still there, and how it ended.

A kept descriptor of ``/proc/PID/stat`` costs a few microseconds a look and can never show another process of the same
pid. It tells of a death as soon as the process begins to die: a pidfd tells of it once the memory is freed, which takes
a large process seconds. How it ended is there from the same moment on; once the parent has taken notice of it, only
newer kernels (Linux 6.15) still tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
from typing import NamedTuple

from taskgraph.backends.processes import Condition, Process, open_pidfd, parse_stat

_GET_INFO = 0xC040FF0B
_INFO_EXIT = 1 << 3
_INFO = struct.Struct("=QQ11Ii")
_CORE = 0x80


class Exit(NamedTuple):
    """How a process ended: its wait status; None: nobody can tell any more."""

    status: int | None

    @property
    def signal(self) -> int | None:
        """The signal that ended it, if one did."""
        return None if self.status is None else self.status & ~_CORE & 0xFF or None

    def __str__(self) -> str:
        """Say it as a person would."""
        if self.status is None:
            return "ended"
        if self.signal is None:
            return f"exited with code {self.status >> 8}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        return f"killed by {name}" + (", core dumped" if self.status & _CORE else "")


class Observed:
    """A process that is looked at; `close` it at the end."""

    def __init__(self, process: Process) -> None:
        self.process = process
        descriptor = open_pidfd(process)
        self._pidfd = -1 if descriptor is None else descriptor
        self._stat = -1
        self._status: int | None = None
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone already
            self._stat = os.open(f"/proc/{process.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)

    def condition(self) -> Condition:
        """Look at it."""
        if self._stat < 0:
            return Condition.GONE
        try:
            found = parse_stat(os.pread(self._stat, 4096, 0).decode(errors="replace"))
        except ProcessLookupError:
            return Condition.GONE
        if found.start != self.process.start:
            return Condition.GONE
        if found.condition is Condition.GONE:
            self._status = found.exit
        return found.condition

    def exit(self) -> Exit:
        """Say how it ended, after `condition` said that it has."""
        if self._status is None:
            self._status = self._told_by_kernel()
        return Exit(self._status)

    def _told_by_kernel(self) -> int | None:
        """Ask for the status of a process that its parent has taken notice of already."""
        if self._pidfd < 0:
            return None
        asked = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
        try:
            fcntl.ioctl(self._pidfd, _GET_INFO, asked)
        except OSError:
            return None
        mask, *_, status = _INFO.unpack(asked)
        return int(status) if mask & _INFO_EXIT else None

    def close(self) -> None:
        """Look no more. Idempotent."""
        for name in ("_pidfd", "_stat"):
            if (descriptor := getattr(self, name)) >= 0:
                setattr(self, name, -1)
                os.close(descriptor)


def killed_for_memory() -> int:
    """Return how many processes this machine has killed for lack of memory; -1: it does not say."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, StopIteration, ValueError):
        return -1
