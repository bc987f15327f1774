"""Which ranks of a host there are: one small file for each, written by the rank, read by the keeper.

A rank that leaves in order says so, and is then nobody's to kill: its process belongs to the user again. One that just
disappears has died.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskgraph.backends.launcher import LeftFile
from taskgraph.backends.processes import Process
from taskgraph.errors import UsageError
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import write_process

_LEFT = ".left"


@dataclass(frozen=True, slots=True)
class Entry:
    """One rank of the host.

    Attributes
    ----------
    index
        Its position among the ranks of the host.
    process
        What runs it.
    files
        What MPI made for it, to be removed if its launcher dies without doing so.
    left
        Whether it has left in order.
    """

    index: int
    process: Process
    files: tuple[LeftFile, ...]
    left: bool


def add_rank(directory: HostDir, index: int, process: Process, files: Sequence[LeftFile] = ()) -> None:
    """Tell the keeper of a rank; it need not run yet.

    Raises
    ------
    UsageError
        The directory is gone: the job was ended while this rank was starting.
    """
    try:
        write_process(directory.ranks / str(index), process, json.dumps([list(file) for file in files]))
    except FileNotFoundError:
        raise UsageError(f"the job was ended while it was starting: {directory.path} is gone") from None
    directory.ring()


def leave(directory: HostDir, index: int) -> None:
    """Tell the keeper that a rank leaves in order. Idempotent, and without a directory nothing."""
    try:
        os.rename(directory.ranks / str(index), directory.ranks / f"{index}{_LEFT}")
    except FileNotFoundError:
        return
    directory.ring()


def has_left(directory: HostDir, index: int) -> bool:
    """Tell whether a rank has left in order, or everything is removed: then all have."""
    return not (directory.ranks / str(index)).exists()


def read_roster(directory: HostDir) -> list[Entry]:
    """Return all ranks that were added so far, those that left included."""
    return _read(directory.ranks)


def close_roster(directory: HostDir) -> list[Entry]:
    """Let no rank be added any more, and return those that were added up to this moment."""
    closed = directory.ranks.with_name("ranks.closed")
    with contextlib.suppress(FileNotFoundError):  # closed already
        os.rename(directory.ranks, closed)
    return _read(closed)


def _read(ranks: Path) -> list[Entry]:
    entries = (_entry(path) for path in sorted(ranks.iterdir()))
    return [entry for entry in entries if entry is not None]


def _entry(path: Path) -> Entry | None:
    """Read one file. None where it is a draft, or was renamed this moment: then the bell rings once more for it."""
    index = path.name.removesuffix(_LEFT)
    if not index.isdigit():
        return None
    try:
        line, text = path.read_text(encoding="utf-8").split("\n", 1)
    except FileNotFoundError:
        return None
    pid, start = map(int, line.split())
    files = tuple(LeftFile(*fields) for fields in json.loads(text))
    return Entry(int(index), Process(pid, start), files, path.name.endswith(_LEFT))
