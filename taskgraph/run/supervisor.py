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
from types import FrameType

from taskgraph.backends.launcher import LeftFile
from taskgraph.backends.processes import alive, tied
from taskgraph.errors import TaskgraphError
from taskgraph.plan.relaunch import Attempt, Done, GiveUp, Outcome, after
from taskgraph.run.host.directory import shared_memory
from taskgraph.run.host.forgotten import remove_left_by_launcher
from taskgraph.run.host.roster import read_roster
from taskgraph.run.host.supervised import Supervised
from taskgraph.run.pause import Pause
from taskgraph.run.start import inheritance

_LOOK_S = 0.5
_DESERTED_S = 5.0
"""How long a launcher may stay when no rank of this machine is left, in seconds: some wait for a host that is gone."""
_LEAVE_S = 5.0
_ONLY_PAUSING = (signal.SIGUSR1,)
_PAUSING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)
_ENDING = (signal.SIGINT,)


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
        self._interrupted = 0
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
        if not self._interrupted:  # between two attempts
            self._child = subprocess.Popen(tied(self._command(attempt.attempt)), env=environ)
            status = self._wait(attempt, self._child)
            self._child = None
            self._tell_where(attempt)  # it may have been faster than a look
            self._attempts.append(attempt.look(status, self._interrupted))
        else:
            self._attempts.append(Attempt(status=1, reached=False, interrupted=self._interrupted))
        return after(self._attempts, self._limit)

    def _wait(self, attempt: Supervised, child: subprocess.Popen[bytes]) -> int:
        """Wait for the end of the launcher; end it where the job has gone and it does not notice."""
        deserted_at = None
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_S)
            if self._pause.asked and not self._pause.pass_on(attempt) and self._pause.must_end:
                self._interrupt(self._pause.asked)
            self._tell_where(attempt)
            if not self._is_deserted(attempt):
                deserted_at = None
            elif deserted_at is None:
                deserted_at = time.monotonic()
            elif time.monotonic() - deserted_at > _DESERTED_S:
                self._say("no rank is left on this machine, and the launcher does not end: ending it")
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

    # ---- signals ----

    def _take_signals(self, undo: ExitStack) -> None:
        for number in (*_PAUSING, *_ENDING):
            before = signal.signal(number, self._on_signal)
            undo.callback(signal.signal, number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note a wish; the first that only asks for a pause is granted a chance, any other ends the launcher."""
        if number in _PAUSING and not self._pause.asked:
            self._pause.ask(signal.Signals(number), must_end=number not in _ONLY_PAUSING)
        elif number not in _ONLY_PAUSING:
            self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        self._interrupted = number
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()


def _end(child: subprocess.Popen[bytes]) -> int:
    """End a launcher, gently first: then it ends its ranks on other hosts."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        return child.wait(_LEAVE_S)
    child.kill()
    return child.wait()
