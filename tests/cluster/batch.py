"""Jobs submitted to the cluster, watched from outside."""

from __future__ import annotations

import re
import shlex
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

from lab import HEAD, ROOT, Lab

from taskgraph.config import Config
from taskgraph.testing import spmd

RING = ROOT / "tests" / "programs" / "ring.py"
TASKS, EPOCHS, MS = 9, 160, 50
LIMIT_S = 180.0
LEASE_S: float = next(field.default for field in fields(Config) if field.name == "lease_s")
PAST_LEASE_S = 2.5 * LEASE_S
"""So long after its last word a host counts as dead everywhere."""
_ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED")
_EPOCH = re.compile(r"^epoch (\d+)$", re.MULTILINE)
_RESULT = re.compile(r"result \d+ [0-9a-f]+")


@lru_cache
def undisturbed(epochs: int = EPOCHS) -> frozenset[str]:
    """Return the results of a run of the ring to which nothing happens."""
    done = spmd.run(RING, ranks=3, args=[TASKS, epochs, 0])
    found = frozenset(_RESULT.findall(done.stdout))
    assert len(found) == TASKS
    return found


def ring(*options: object, epochs: int = EPOCHS, ms: int = MS) -> list[str]:
    """Return the line that runs the ring under ``taskgraph run``."""
    return [sys.executable, "-m", "taskgraph", "run", *map(str, options), str(RING), str(TASKS), str(epochs), str(ms)]


class Batch:
    """One batch job.

    Parameters
    ----------
    command
        What the batch script becomes.
    sbatch
        Options of sbatch.
    env
        Variables of the job.

    Attributes
    ----------
    stood_still_s
        How long it took at most from one epoch to the next that there had not been before, in seconds: from the first
        that was waited for on.
    """

    def __init__(
        self, lab: Lab, command: Sequence[str], sbatch: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self._lab = lab
        number = time.time_ns()
        self._out = lab.directory / f"out-{number}.txt"
        script = lab.directory / f"job-{number}.sh"
        variables = {"PYTHONPATH": str(ROOT), "TASKGRAPH_BACKUPS": "1", **(env or {})}
        settings = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        script.write_text(f"#!/bin/bash\n{settings}exec {shlex.join(command)}\n", encoding="utf-8")
        self.stood_still_s = 0.0
        self._observer = threading.Thread(target=self._observe, daemon=True)
        self._gone = threading.Event()
        self.number = lab.submit(script, *sbatch, "--open-mode=append", "-o", self._out)

    def text(self) -> str:
        """Return what it has printed so far."""
        return self._out.read_bytes().replace(b"\0", b"").decode(errors="replace") if self._out.exists() else ""

    def wait_for_line(self, pattern: str, limit_s: float = LIMIT_S) -> None:
        """Wait until it has printed a line that a regular expression matches."""
        wanted = re.compile(pattern, re.MULTILINE)
        try:
            self._lab.wait_for(lambda: wanted.search(self.text()) or not self.active(), pattern, limit_s)
            assert wanted.search(self.text()), f"the job ended without {pattern!r}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None
        if not self._observer.is_alive() and not self._gone.is_set():
            self._observer.start()

    def active(self) -> bool:
        """Whether Slurm still has to do with it."""
        return self._lab.state(self.number) in _ACTIVE

    def finish(self, limit_s: float = LIMIT_S) -> str:
        """Wait for its end, and return its last state."""
        try:
            self._lab.wait_for(lambda: not self.active(), f"job {self.number} ends", limit_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None
        finally:
            self._gone.set()
        return self._lab.state(self.number)

    def epochs(self) -> list[int]:
        """Return the epochs in the order in which they were begun."""
        return [int(number) for number in _EPOCH.findall(self.text())]

    def _observe(self) -> None:
        last, since = max(self.epochs(), default=-1), time.monotonic()
        while not self._gone.wait(0.05):
            if (newest := max(self.epochs(), default=-1)) > last:
                self.stood_still_s = max(self.stood_still_s, time.monotonic() - since)
                last, since = newest, time.monotonic()

    def results(self) -> frozenset[str]:
        """Return what the tasks say in the end; the same from each that says it twice."""
        return frozenset(_RESULT.findall(self.text()))

    def resumed(self) -> list[int]:
        """Return the epochs at which relaunches went on."""
        return [int(epoch) for epoch in re.findall(r"relaunch \d+ goes on at epoch (\d+)", self.text())]

    def cancel(self) -> None:
        """End it, if it is there, and wait until it is gone."""
        self._gone.set()
        if self.active():
            self._lab.run(HEAD, "scancel", self.number)
            self.finish()


def pids(lab: Lab, host: str, pattern: str) -> list[int]:
    """Return the processes on a host whose command line a regular expression matches, as that host numbers them."""
    return [pid for pid, words in lab.processes(host).items() if re.search(pattern, words)]


def ranks(lab: Lab, host: str) -> list[int]:
    """Return the ranks of the ring on a host."""
    return pids(lab, host, rf"^{re.escape(sys.executable)} {re.escape(str(RING))}")


def kill(lab: Lab, host: str, pid: int) -> None:
    """Kill a process on a host with -9."""
    lab.run(host, "kill", "-9", pid)


def kill_all(lab: Lab, hosts: Sequence[str]) -> None:
    """Kill all that runs on these hosts for any job with -9, on all at the same time, until there is nothing."""

    def kill_there(host: str) -> None:
        while found := [pid for pid, words in lab.processes(host).items() if not words.startswith("slurmstepd")]:
            lab.run(host, "sh", "-c", 'kill -9 "$@" || true', "sh", *found)

    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(kill_there, hosts))


def leftovers(lab: Lab, hosts: Sequence[str]) -> list[str]:
    """Return what there is of any job on these hosts: processes, shared memory, temporary files."""
    found = []
    for host in hosts:
        found += [f"{host}: {words}" for words in lab.processes(host).values()]
        for place in ("/dev/shm", "/tmp"):
            names = lab.run(host, "ls", "-A", place).split()
            kept = {path.parts[2] for path in (lab.directory, ROOT, Path(sys.prefix)) if path.parts[1] == "tmp"}
            found += [f"{host}: {place}/{name}" for name in names if place != "/tmp" or name not in kept]
    return found


def assert_nothing_left(lab: Lab, hosts: Sequence[str], limit_s: float = 20.0) -> None:
    """Nothing of a job that is over is on these hosts."""
    try:
        lab.wait_for(lambda: not leftovers(lab, hosts), "nothing is left", limit_s)
    except AssertionError:
        raise AssertionError("left behind: " + "; ".join(leftovers(lab, hosts))) from None
