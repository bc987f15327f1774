"""Run real MPI jobs from a test, and leave nothing behind.

A job gets an environment without leftovers of other jobs, a session and a temporary directory of its own, and a marker
that all its processes inherit (`taskgraph.testing.leftovers`). However it ends, all of it is gone afterwards; a job
that did not see to that itself is an error.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import textwrap
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from re import Match
from types import TracebackType
from typing import Self

from taskgraph.errors import TaskgraphError
from taskgraph.testing import mpirun
from taskgraph.testing.leftovers import (
    MARKER,
    SHARED,
    abandoned,
    end_all,
    leftovers,
    processes,
    ranks,
    shared_by,
    shared_files,
    waits,
)
from taskgraph.testing.transcript import Transcript

_SHOWN = 20_000


@dataclass(frozen=True, slots=True)
class Completed:
    """A job that ended by itself. Its status is the launcher's, which can be 0 though ranks were killed."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        return f"status {self.status} after {self.seconds:.1f} s\n{_quoted(self.stdout, self.stderr)}"


class JobHung(TaskgraphError):
    """A job, or a line that it was to print, did not come in time. All of the job has been ended."""


class LeftBehind(TaskgraphError):
    """A job ended but left processes or files behind, which have been removed.

    Attributes
    ----------
    left
        A line for each.
    """

    def __init__(self, message: str, left: Sequence[str]) -> None:
        super().__init__(message)
        self.left = tuple(left)


class Running:
    """A job under ``mpirun``. As a context manager it ends whatever is left of it.

    Attributes
    ----------
    pid
        Of the launcher.
    marker
        Value of the environment variable `MARKER` in every process of the job.
    tmp
        The job's own directory for temporary files.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], home: Path, cwd: Path | None) -> None:
        self._home = home
        self.tmp = home / "tmp"
        self.marker = env[MARKER]
        self._before = shared_files()
        self._known: frozenset[str] = frozenset()
        self._command = list(command)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._transcript = Transcript(self._process.stdout, self._process.stderr)
        atexit.register(self.end)  # for a test that forgot the job

    @property
    def stdout(self) -> str:
        """What the job has printed so far."""
        return self._transcript.stdout

    @property
    def stderr(self) -> str:
        """What the job has printed on standard error so far."""
        return self._transcript.stderr

    def ranks(self) -> dict[int, int]:
        """Return the pid of each rank that lives now."""
        return ranks(self.marker)

    def wait_for_line(self, pattern: str, timeout_s: float = 30.0) -> Match[str]:
        """Wait for a line, of any rank and either stream, that contains a regular expression. Earlier lines count.

        Under other launchers than Open MPI's a rank's line comes once it is flushed.

        Raises
        ------
        JobHung
            It did not come within `timeout_s` seconds, or the job ended without it.
        """
        match = self._transcript.wait_for(pattern, timeout_s)
        if match is None:
            with suppress(subprocess.TimeoutExpired):  # its streams end a little before the process
                self._process.wait(1)
            status = self._process.poll()
            self.end()
            what = f"in {timeout_s} s" if status is None else f"before the job ended with status {status}"
            raise JobHung(f"no line with {pattern!r} {what}\n{self._report()}")
        self._known |= shared_by(self.marker)
        return match

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the launcher alone."""
        self._known |= shared_by(self.marker)
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the launcher has ended, and learn meanwhile which files the job shares. Whether it did."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(min(left_s, 0.5))
                return True
            self._known |= shared_by(self.marker)
        return False

    def shared(self) -> frozenset[str]:
        """Return the names in ``/dev/shm`` that the job was seen to have open."""
        return self._known

    def finish(self, timeout_s: float = 60.0, settle_s: float = 10.0) -> Completed:
        """Wait for the end of the job and see that nothing is left of it.

        Parameters
        ----------
        timeout_s
            Seconds until the launcher must have ended.
        settle_s
            Seconds that processes and files may take to go after it.

        Raises
        ------
        JobHung
            The launcher did not end in time.
        LeftBehind
            Something was still there in the end.
        """
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            alive = [f"{one}, threads wait in {waits(one.pid)}" for one in processes(self.marker, self.pid)]
            self.end()
            there = "\n".join([f"the job did not end in {timeout_s} s; there are", *alive])
            raise JobHung(f"{there}\n{self._report()}") from None
        seconds = time.monotonic() - self._started
        left = self._settle(settle_s)
        if not left and not self._transcript.close(settle_s):
            left = ["a process that nobody knows holds the job's output open"]
        self.end()
        if left:
            raise LeftBehind("the job left behind: " + "; ".join(left) + f"\n{self._report()}", left)
        return Completed(status, self.stdout, self.stderr, seconds)

    def leftovers(self) -> list[str]:
        """Describe what there is of the job at this moment, processes and files."""
        return leftovers(self.marker, session=self.pid, tmp=self.tmp, before=self._before, known=self._known)

    def end(self) -> None:
        """End the job if it still runs, kill what is left of it and remove its files. May be called again."""
        self._known |= shared_by(self.marker)
        if self._process.poll() is None:
            # Asked nicely first, the launcher removes its files itself. It may not be able to, if it is stopped.
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(3)
        end_all(self.marker, self.pid)
        self._process.wait(10)
        self._transcript.close(5)
        for name in abandoned(self.marker, self._before, self._known) if self._home.exists() else ():
            _remove(SHARED / name)
        _remove(self._home)
        atexit.unregister(self.end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def _settle(self, limit_s: float) -> list[str]:
        deadline = time.monotonic() + limit_s
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def _report(self) -> str:
        return f"command: {' '.join(self._command)}\n{_quoted(self.stdout, self.stderr)}"


def start(
    program: Path | str,
    *,
    ranks: int,
    args: Sequence[object] = (),
    env: Mapping[str, str] | None = None,
    ulfm: bool = False,
    flags: Sequence[str] = (),
    cwd: Path | None = None,
) -> Running:
    """Start a job and return at once.

    Parameters
    ----------
    program
        A `Path` to a script, or the source of one as a string, which may be indented.
    ranks
        Number of MPI processes, which may exceed the number of cores.
    args
        Arguments of the program.
    env
        Variables to set in the job's environment.
    ulfm
        Let survivors go on after a rank was killed (Open MPI 5).
    flags
        More flags for ``mpirun``.
    cwd
        Directory to run in; None: the current one.
    """
    home = Path(tempfile.mkdtemp(prefix="spmd-"))
    try:
        tmp = home / "tmp"
        tmp.mkdir()
        if isinstance(program, str):
            script = home / "program.py"
            script.write_text(textwrap.dedent(program), encoding="utf-8")
        else:
            script = program.resolve(strict=True)
        words = mpirun.command(ranks, [str(script), *map(str, args)], ulfm=ulfm, flags=flags)
        variables = {**mpirun.environment(os.environ, tmp), **(env or {}), MARKER: uuid.uuid4().hex}
        return Running(words, variables, home, cwd)
    except BaseException:
        _remove(home)
        raise


def run(
    program: Path | str,
    *,
    ranks: int,
    args: Sequence[object] = (),
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    ulfm: bool = False,
    flags: Sequence[str] = (),
    cwd: Path | None = None,
) -> Completed:
    """Run a job to its end. Parameters as for `start`, errors as for `Running.finish`.

    Parameters
    ----------
    timeout_s
        Seconds until it must have ended.
    """
    with start(program, ranks=ranks, args=args, env=env, ulfm=ulfm, flags=flags, cwd=cwd) as job:
        return job.finish(timeout_s)


def _quoted(stdout: str, stderr: str) -> str:
    """Return the end of both streams: an endless job may have printed any amount."""
    return f"--- stdout\n{stdout[-_SHOWN:]}\n--- stderr\n{stderr[-_SHOWN:]}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
