"""What a job started from a test still has: processes and files, found by evidence and never by name.

Every process of a job inherits the variable `MARKER` with a value of the job's own. A process that dropped the
variable is found by its session or its parents. Files in ``/dev/shm`` carry no such mark: those count that appeared
after the job began and that no other process has open or names on its command line. While another job runs on the
machine, it must also be known that the job had them.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARKER = "SPMD_JOB"
"""Name of the environment variable; not ``TASKGRAPH_``, where only options are allowed."""

SHARED = Path("/dev/shm")
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")


@dataclass(frozen=True, slots=True)
class Process:
    """A live process of a job, as ``/proc`` showed it."""

    pid: int
    parent: int
    session: int
    marker: str | None
    rank: int | None
    command: str

    def __str__(self) -> str:
        return f"process {self.pid}: {self.command}"


def processes(marker: str, session: int | None = None) -> list[Process]:
    """Return the live processes with the marker, in the session, and all that descend from those.

    Parameters
    ----------
    marker
        The job's value of `MARKER`.
    session
        Session that the job was started in, which is the pid of its launcher.
    """
    everyone = list(_everyone())
    found = {one.pid for one in everyone if one.marker == marker or one.session == session}
    while True:
        more = {one.pid for one in everyone if one.parent in found} - found
        if not more:
            return [one for one in everyone if one.pid in found]
        found |= more


def waits(pid: int) -> str:
    """Name the kernel functions that a process's threads wait in; 0: running."""
    found: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            found[(task / "wchan").read_text() or "0"] += 1
    return ", ".join(f"{name} ({count})" for name, count in found.most_common())


def ranks(marker: str) -> dict[int, int]:
    """Return the pid of each MPI rank that lives. What a rank starts has its variables too, but is not meant."""
    found = {one.pid: one for one in processes(marker) if one.rank is not None}
    return {one.rank: pid for pid, one in sorted(found.items()) if one.rank is not None and one.parent not in found}


def leftovers(
    marker: str,
    *,
    session: int | None = None,
    tmp: Path | None = None,
    before: frozenset[str] = frozenset(),
    known: Collection[str] = (),
) -> list[str]:
    """Describe what there still is of a job, a line for each process and file; empty when nothing is.

    Parameters
    ----------
    marker, session
        As for `processes`.
    tmp
        The job's own temporary directory: all that is in it counts.
    before
        What `shared_files` returned before the job began. Without it, files in ``/dev/shm`` are not looked at.
    known
        Names in ``/dev/shm`` that the job had open when it was looked at.
    """
    left = [str(one) for one in processes(marker, session)]
    if before:
        left += [f"file {SHARED / name}" for name in abandoned(marker, before, known)]
    if tmp is not None and tmp.is_dir():
        left += [f"file {path}" for path in sorted(tmp.iterdir())]
    return left


def shared_files() -> frozenset[str]:
    """Return the names in ``/dev/shm``, and ``"."``: so that the answer is never empty."""
    return frozenset({".", *os.listdir(SHARED)})


def shared_by(marker: str) -> frozenset[str]:
    """Return the names in ``/dev/shm`` that processes of a job have open now."""
    paths = (Path(path) for one in processes(marker) for path in _open_files(one.pid))
    return frozenset(path.relative_to(SHARED).parts[0] for path in paths if SHARED in path.parents)


def abandoned(marker: str, before: frozenset[str], known: Collection[str] = ()) -> list[str]:
    """Return names in ``/dev/shm`` that are new, this user's, and of nobody else that lives."""
    new = []
    for name in sorted(shared_files() - before):
        with suppress(FileNotFoundError):
            if os.lstat(SHARED / name).st_uid == os.geteuid():
                new.append(name)
    if not new:
        return []
    ours = {one.pid for one in processes(marker)}
    ours.add(os.getpid())  # which looks into files, and is no job
    others = [one for one in _everyone() if one.pid not in ours]
    if any(one.rank is not None for one in others):
        new = [name for name in new if name in known or marker in name]
    used = {path for one in others for path in _open_files(one.pid)}
    commands = [one.command for one in others]
    return [
        name
        for name in new
        if not any(_lies_in(SHARED / name, path) for path in used)
        and not any(str(SHARED / name) in command for command in commands)
    ]


def end_all(marker: str, session: int | None = None, limit_s: float = 10.0) -> None:
    """Kill every process of a job, and those that they start meanwhile.

    Raises
    ------
    TimeoutError
        Some are still there after `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    while alive := processes(marker, session):
        if time.monotonic() > deadline:
            raise TimeoutError(f"these outlived SIGKILL for {limit_s} s: {'; '.join(map(str, alive))}")
        for one in alive:
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        time.sleep(0.01)


def _everyone() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # Gone meanwhile, or another user's.
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                process = _read(int(entry))
                if process is not None:
                    yield process


def _read(pid: int) -> Process | None:
    """Read one process; None for a zombie, of which nothing is left but its status."""
    directory = Path("/proc", str(pid))
    # The name, in parentheses, may hold spaces and parentheses of its own.
    state, parent, _group, session = directory.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
    if state in "ZX":
        return None
    pairs = (item.partition("=") for item in _strings(directory / "environ"))
    environ = {name: value for name, _, value in pairs}
    rank = next((environ[name] for name in _RANK_VARIABLES if environ.get(name, "").isdigit()), None)
    return Process(
        pid,
        int(parent),
        int(session),
        environ.get(MARKER),
        None if rank is None else int(rank),
        " ".join(_strings(directory / "cmdline")),
    )


def _strings(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def _open_files(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for line in Path("/proc", str(pid), "maps").read_text().splitlines():
            if str(SHARED) in line:
                yield line[line.index(str(SHARED)) :]
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{descriptor}")


def _lies_in(place: Path, path: str) -> bool:
    return path == str(place) or path.startswith(f"{place}/")
