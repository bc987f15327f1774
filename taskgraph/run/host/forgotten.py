"""Directories whose processes are all dead, keeper included.

There are some only where everything was killed at once, by the kernel or a batch system, where a whole host was lost of
several on one machine, or where a launcher was killed before there was a keeper.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from taskgraph.backends.launcher import LeftFile
from taskgraph.backends.processes import Process, alive
from taskgraph.run.host.before_keeper import left_at_start
from taskgraph.run.host.directory import HostDir, machine, remove_private
from taskgraph.run.host.files import read_process
from taskgraph.run.host.keeper_spec import KeeperSpec
from taskgraph.run.host.roster import close_roster

log = logging.getLogger(__name__)

_YOUNG_S = 60.0
_NAME = re.compile(r"(taskgraph-(\d+)-.+-[0-9a-zA-Z]{1,8}-)(\d+|etcd)")


def remove_forgotten(base: Path) -> list[Path]:
    """Remove the directories of runs of this user of which nothing lives any more, and return them.

    Parameters
    ----------
    base
        Where they lie. Another machine may see the same place: what it made is left alone.
    """
    removed = []
    for note, files in left_at_start(base).items():
        remove_left_by_launcher(files)
        note.unlink(missing_ok=True)
        removed.append(note)
    ours = sorted(path for path in base.iterdir() if (m := _NAME.fullmatch(path.name)) and int(m[2]) == os.geteuid())
    for _, group in groupby(ours, key=lambda path: path.name.rpartition("-")[0]):
        directories = list(group)
        if not any(map(in_use, directories)):
            for path in directories:
                remove_left_by_launcher(_left_by_launcher(path))
                remove_private(path)
                removed.append(path)
    return removed


def remove_dead_siblings(directory: HostDir) -> None:
    """Remove the directories of those other hosts of the same run, on this machine, of which nothing lives any more."""
    for path in directory.path.parent.glob(f"{directory.run_prefix}[0-9]*"):
        if path != directory.path and not in_use(path):
            remove_private(path)


def remove_left_by_launcher(files: Iterable[LeftFile]) -> None:
    """Remove what a killed launcher left, unless it is gone, or another by now."""
    for file in files:
        if file.still_there():
            log.info("removing %s", file.path)
            _remove(Path(file.path))


def _remove(path: Path) -> None:
    """Remove a file or a directory of this user; the latter has the mode that the launcher's umask gave it."""
    if path.is_dir() and not path.is_symlink():
        for _ in range(3):  # somebody may still be adding to it
            shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # gone
            path.unlink()


def _left_by_launcher(path: Path) -> set[LeftFile]:
    try:
        return {file for entry in close_roster(HostDir(path)) for file in entry.files}  # its keeper may have closed it
    except (OSError, ValueError):  # the directory of an etcd, or broken
        return set()


def _supervisor(path: Path) -> Process | None:
    """Return the process that may have the job launched again which left this directory."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return KeeperSpec.decode(HostDir(path).spec.read_text(encoding="utf-8")).supervisor
    return None


def in_use(path: Path) -> bool:
    """Whether the owner of a directory, its keeper, its supervisor or a rank that has not left is alive, or may be."""
    owner = path / "owner"
    with contextlib.suppress(OSError, IndexError):
        if owner.read_text(encoding="utf-8").split("\n", 1)[1] != machine():
            return True
    processes: list[Process | None] = [_supervisor(path)]
    processes += [
        read_process(file) for file in (owner, path / "keeper", *path.glob("ranks*/*")) if file.suffix != ".left"
    ]
    if any(process is not None and alive(process) for process in processes):
        return True
    try:
        return time.time() - path.lstat().st_mtime < _YOUNG_S and not owner.exists()  # it may be in the making
    except OSError:
        return False
