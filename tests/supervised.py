"""Jobs under ``taskgraph run``, real ones."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from taskgraph.backends.processes import Process, kill, read_stat
from taskgraph.testing import mpirun
from taskgraph.testing.leftovers import MARKER, processes
from taskgraph.testing.spmd import Running

RING = Path(__file__).with_name("programs") / "ring.py"
LIMIT_S = 90.0


@contextmanager
def supervised(
    arguments: Sequence[object],
    *,
    ranks: int = 3,
    options: Sequence[str] = (),
    program: Path = RING,
    env: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Start ``taskgraph run`` on a driver; whatever is left of it afterwards is ended."""
    home = Path(tempfile.mkdtemp(prefix="supervised-"))
    (home / "tmp").mkdir()
    command = [sys.executable, "-m", "taskgraph", "run", "-n", str(ranks), *options, str(program)]
    variables = {**mpirun.environment(os.environ, home / "tmp"), **(env or {}), MARKER: uuid.uuid4().hex}
    with Running([*command, *map(str, arguments)], variables, home, None) as job:
        yield job


def launcher(job: Running, after: Process | None = None) -> Process:
    """Return the launcher that the supervisor runs now, once it is another than `after`."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for one in processes(job.marker):
            found = Process.of(one.pid)
            if one.parent == job.pid and found is not None and found != after and _is_launcher(found):
                return found
        time.sleep(0.02)
    raise AssertionError("the supervisor runs no launcher")


def _is_launcher(process: Process) -> bool:
    stat = read_stat(process.pid)  # before it becomes the launcher it is a Python
    return stat is not None and not stat.name.startswith("python")


def kill_launcher(job: Running, after: Process | None = None) -> Process:
    """Kill the launcher with -9."""
    found = launcher(job, after)
    assert kill(found)
    return found


def results(stdout: str) -> set[str]:
    """Return what the tasks of the ring say in the end; the same from each that says it twice."""
    return set(re.findall(r"result \d+ [0-9a-f]+", stdout))
