"""Clean-up before there is a keeper: nothing stays behind if the launcher is killed while its ranks start.

The kernel kills the rank with its launcher, and a note tells the next job on this machine what MPI was making.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from taskgraph.backends.launcher import LeftFile, launchers, mpi_files, remove_own_segments, unused_segments
from taskgraph.backends.processes import Process, alive, killed_with_parent
from taskgraph.errors import TaskgraphError, UsageError
from taskgraph.run.host.directory import machine, shared_memory
from taskgraph.run.host.files import read_process, write_process

_NOTE = re.compile(r"taskgraph-(\d+)\.starting\.\d+")
_START_S = 120.0
"""How long after its note a rank may still have made files, in seconds."""


@contextlib.contextmanager
def starting(environ: Mapping[str, str], base: Path | None = None) -> Iterator[None]:
    """Watch over this process from before the start of MPI until it has a keeper.

    Parameters
    ----------
    environ
        Usually ``os.environ``.
    base
        Where to leave the note. None: where the directories of hosts lie.

    Raises
    ------
    UsageError
        The launcher is gone already.
    """
    me = Process.current()
    above = launchers(me)
    note = (base or shared_memory()) / f"taskgraph-{os.geteuid()}.starting.{me.pid}"
    write_process(note, me, json.dumps([machine(), above, mpi_files(environ, mapped=())]))
    try:
        if above and above[0].pid == os.getppid():
            with killed_with_parent():
                if not alive(above[0]):  # before the kernel was told
                    raise UsageError(f"the launcher ({above[0]}) is gone: the job was ended while it was starting")
                yield
        else:
            yield
    except TaskgraphError:
        raise
    except Exception:  # the launcher, which would remove this, may be lost with the rank that MPI speaks of
        remove_own_segments(environ)
        raise
    finally:
        note.unlink(missing_ok=True)


def left_at_start(base: Path) -> dict[Path, set[LeftFile]]:
    """Return the notes of ranks that were killed while they started, and what MPI had made by then."""
    notes = [path for path in base.iterdir() if (m := _NOTE.fullmatch(path.name)) and int(m[1]) == os.geteuid()]
    left = {}
    for note in notes:
        with contextlib.suppress(OSError, ValueError):  # it is being removed by another, or broken
            if (files := _left(note)) is not None:
                left[note] = files
    return left


def _left(note: Path) -> set[LeftFile] | None:
    """Return what one note tells of; None where it cannot be told to be over."""
    where, above, files = json.loads(note.read_text(encoding="utf-8").split("\n", 1)[1])
    processes = [read_process(note), *(Process(*fields) for fields in above)]
    if where != machine() or any(process is not None and alive(process) for process in processes):
        return None
    noted = note.lstat().st_mtime
    made = {file for file in unused_segments() if noted <= os.lstat(file.path).st_mtime <= noted + _START_S}
    return {LeftFile(*fields) for fields in files} | made
