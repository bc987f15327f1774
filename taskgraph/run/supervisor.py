"""The supervisor of a job: starts its launcher, and starts it again when that ended while the job was not over.

`taskgraph.plan.relaunch` decides what follows when a launcher has ended; the job itself reports what became of it
(`taskgraph.run.host.supervised`). Nothing of the job outlives the supervisor: the kernel ends the launcher with it,
keepers see that it is gone, and it ends what they leave.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import FrameType

from taskgraph.backends.launcher import LeftFile
from taskgraph.backends.processes import alive, tied
from taskgraph.errors import TaskgraphError
from taskgraph.plan.relaunch import ENDING, PAUSING, Attempt, Done, GiveUp, Outcome, Wish, after
from taskgraph.run.host.directory import shared_memory
from taskgraph.run.host.forgotten import remove_forgotten, remove_left_by_launcher
from taskgraph.run.host.roster import read_roster
from taskgraph.run.host.supervised import Supervised
from taskgraph.run.pause import Pause
from taskgraph.run.start import inheritance

_LOOK_S = 0.5
_DESERTED_S = 5.0
"""How long a launcher may stay when no rank of this machine is left, in seconds: some wait for a host that is gone."""
_LEAVE_S = 5.0
_OBEY_S = 20.0
"""How long a launcher that was told to end may take for it, in seconds: it waits for ranks, on other hosts too."""


class Supervisor:
    """Runs one job, in as many attempts as it takes.

    Parameters
    ----------
    command
        Says how an attempt is started, by its number.
    environ
        Of the launcher.
    limit
        How many relaunches there may be.
    say
        Tells a person.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        environ: Mapping[str, str],
        limit: int,
        say: Callable[[str], None],
    ) -> None:
        self._command = command
        self._environ = dict(environ)
        self._limit = limit
        self._say = say
        self._child: subprocess.Popen[bytes] | None = None
        self._signals: list[int] = []
        self._ended_at: float | None = None
        self._told = 0
        self._pause = Pause()
        self._attempts: list[Attempt] = []
        self._files: set[LeftFile] = set()

    def run(self) -> int:
        """Run the job to its end, and return its status."""
        attempt = Supervised.begin()
        with ExitStack() as undo:
            undo.callback(attempt.close)
            undo.callback(self._end_what_is_left, attempt)
            self._take_signals(undo)
            while True:
                verdict = self._try(attempt)
                if isinstance(verdict, Done):
                    self._let_leave(attempt)
                    if verdict.status and not self._attempts[-1].status:  # with the launcher its output may be lost
                        self._say(f"the job has failed: {verdict.why}")
                    return verdict.status
                if isinstance(verdict, GiveUp):
                    self._say(verdict.why)
                    return verdict.status
                attempt = attempt.next()
                self._say(f"{verdict.why}: launching it again (relaunch {attempt.attempt})")

    # ---- one attempt ----

    def _try(self, attempt: Supervised) -> Outcome:
        environ = {**self._environ, "TASKGRAPH_SUPERVISED": attempt.encode()}
        self._pause.begin()
        if not self._wish.end:  # between two attempts
            self._child = subprocess.Popen(tied(self._command(attempt.attempt)), env=environ)
            status = self._wait(attempt, self._child)
            self._child = None
            self._tell_where(attempt)  # it may have been faster than a look
            self._attempts.append(replace(attempt.look(status, self._wish.end), met=_has_met(attempt)))
        else:
            self._attempts.append(Attempt(status=1, reached=False, interrupted=self._wish.end))
        return after(self._attempts, self._limit)

    def _wait(self, attempt: Supervised, child: subprocess.Popen[bytes]) -> int:
        """Wait for the end of the launcher; end it where that is wished, or the job has gone and it does not notice."""
        deserted_at = None
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_S)
            self._heed(attempt)
            if self._ended_at is not None and time.monotonic() - self._ended_at > _OBEY_S:
                self._say("the launcher was told to end and does not: killing it")
                return self._end_for_good(child)
            self._tell_where(attempt)
            if not self._is_deserted(attempt):
                deserted_at = None
            elif deserted_at is None:
                deserted_at = time.monotonic()
            elif time.monotonic() - deserted_at > _DESERTED_S:
                self._say("no rank is left on this machine, and the launcher does not end: ending it")
                return self._end_for_good(child)

    def _end_for_good(self, child: subprocess.Popen[bytes]) -> int:
        status = _end(child)
        remove_left_by_launcher(self._files)
        return status

    def _tell_where(self, attempt: Supervised) -> None:
        """Tell a person, once for each relaunch, where it goes on."""
        boundary, why = attempt.where()
        if boundary is not None and attempt.attempt > self._told:
            self._say(f"relaunch {attempt.attempt} goes on at epoch {boundary}: {why}")
            self._told = attempt.attempt

    def _is_deserted(self, attempt: Supervised) -> bool:
        """Whether the job was here and has no rank here any more."""
        ranks = 0
        for directory, spec in inheritance.directories(shared_memory(), attempt.series):
            if spec.attempt == attempt:
                with suppress(OSError):
                    roster = read_roster(directory)
                    ranks += sum(alive(entry.process) for entry in roster)
                    self._files.update(file for entry in roster for file in entry.files)
        return not ranks and attempt.has_begun

    # ---- the end ----

    def _let_leave(self, attempt: Supervised) -> None:
        """Wait for the keepers of this machine to clean up."""
        deadline = time.monotonic() + _LEAVE_S
        while any(inheritance.directories(shared_memory(), attempt.series)) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _end_what_is_left(self, attempt: Supervised) -> None:
        if self._child is not None:
            _end(self._child)
        remove_left_by_launcher(self._files)
        for directory, _ in inheritance.directories(shared_memory(), attempt.series):
            with suppress(TaskgraphError, OSError):
                inheritance.end_all(directory)
                inheritance.remove(directory)
        if not any(last.met for last in self._attempts[-1:]):  # its ranks had no keeper
            with suppress(OSError):
                remove_forgotten(shared_memory())

    # ---- signals ----

    def _take_signals(self, undo: ExitStack) -> None:
        for number in {*PAUSING, *ENDING}:
            before = signal.signal(number, self._on_signal)
            undo.callback(signal.signal, number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note it; who does not want the job to pause first does not wait for a look either."""
        self._signals.append(number)
        if number in ENDING and self._wish.at_once:
            self._end_launcher()

    @property
    def _wish(self) -> Wish:
        return Wish.of(tuple(self._signals))

    def _heed(self, attempt: Supervised) -> None:
        """Let the job pause where that is wished and it can; else end the launcher, once, where the end is wished."""
        wish = self._wish
        pausing = bool(wish.pause) and self._pause.pass_on(attempt, wish.pause)
        if wish.ends(pausing=pausing) and self._ended_at is None:
            self._end_launcher()

    def _end_launcher(self) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            self._ended_at = self._ended_at or time.monotonic()
            child.terminate()


def _has_met(attempt: Supervised) -> bool:
    """Whether the ranks have found each other: only then there are directories of hosts."""
    return any(spec.attempt == attempt for _, spec in inheritance.directories(shared_memory(), attempt.series))


def _end(child: subprocess.Popen[bytes]) -> int:
    """End a launcher, gently first: then it ends its ranks on other hosts."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        return child.wait(_LEAVE_S)
    child.kill()
    return child.wait()
