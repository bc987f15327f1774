"""Small files that processes of one host leave for each other, and locks that die with their holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from taskgraph.backends.processes import Process


def write_atomically(path: Path, text: str) -> None:
    """Put a file of mode 0600 in place, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, path)


def write_process(path: Path, process: Process, text: str = "") -> None:
    """Write a file whose first line names a process, with any text after it."""
    write_atomically(path, f"{process.pid} {process.start}\n{text}")


def read_process(path: Path) -> Process | None:
    """Read the process that a file's first line names. None where there is no such file."""
    try:
        pid, start = path.read_text(encoding="utf-8").split("\n", 1)[0].split()
        return Process(int(pid), int(start))
    except (OSError, ValueError):
        return None


def lock(path: Path) -> int | None:
    """Lock a file until the descriptor that is returned is closed, or its process dies.

    Returns
    -------
    int or None
        None where another process holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
