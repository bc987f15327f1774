"""Carry injected failures out: the hook of `taskgraph.trace` in a rank whose job was given faults.

That a fault has hit is remembered by a file in the directory of its host, made before anything happens, so that it
hits once however often its epoch is run. A fault belongs to one host, so no other place needs to know.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Mapping

from taskgraph.backends.processes import Process, kill
from taskgraph.backends.words import AbortWords
from taskgraph.errors import UsageError
from taskgraph.ids import Epoch
from taskgraph.plan.faults import Action, Fault, parse
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import read_process
from taskgraph.run.host.roster import read_roster

log = logging.getLogger(__name__)

Tell = Callable[[Fault, str, Epoch], None]
"""Called as ``tell(fault, point, epoch)`` immediately before a fault hits."""

EXIT_STATUS = 3


class InjectedError(RuntimeError):
    """What a fault ``raise`` raises in the place of user code."""


class Injector:
    """Watches this rank come to points, and hits.

    Parameters
    ----------
    faults
        By number, those that may hit on this rank.
    index
        Of this rank on its host.
    """

    def __init__(self, faults: Mapping[int, Fault], directory: HostDir, index: int, tell: Tell) -> None:
        self._faults = dict(faults)
        self._seen = dict.fromkeys(faults, 0)
        self._directory = directory
        self._index = index
        self._tell = tell
        self._epoch: Epoch = 0

    def __call__(self, point: str, subject: object) -> None:
        """Note that this rank has come to a point."""
        if point == "epoch":
            assert isinstance(subject, int)
            self._enter(subject)
        for number, fault in list(self._faults.items()):
            if fault.meets(point, self._epoch):
                self._seen[number] += 1
                if self._seen[number] == fault.nth:
                    del self._faults[number]
                    self._hit(number, fault, point)

    def _enter(self, epoch: Epoch) -> None:
        self._epoch = epoch
        for number, fault in self._faults.items():
            if not fault.or_later:
                self._seen[number] = 0

    def _hit(self, number: int, fault: Fault, point: str) -> None:
        if not claim(self._directory, number):
            return
        self._tell(fault, point, self._epoch)
        log.warning("fault injected: %s (at %s)", fault, point)
        self._take_the_blame()
        act(fault, point, self._epoch, self._directory)

    def _take_the_blame(self) -> None:
        """Say that this rank does not die of the task that it runs: else the third death would end the job."""
        words = AbortWords.open(self._directory.words)
        words.rest(self._index)
        words.close()


def of_rank(faults: Iterable[Fault], rank: int, host: int) -> dict[int, Fault]:
    """Return, by number, the faults that a rank may trigger."""
    return {number: fault for number, fault in enumerate(faults) if fault.rank == rank or fault.host == host}


def claim(directory: HostDir, number: int) -> bool:
    """Take it upon this process to let a fault hit; False where another has, or the job is over."""
    place = directory.path / "faults"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(place / str(number), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError:
        return False
    return True


def act(fault: Fault, point: str, epoch: Epoch, directory: HostDir) -> None:
    """Let a fault hit this process, or its host."""
    me = Process.current()
    actions: dict[Action, Callable[[], object]] = {
        "kill": lambda: kill(me, signal.SIGKILL),
        "stop": lambda: kill(me, signal.SIGSTOP),
        "exit": lambda: os._exit(EXIT_STATUS),
        "kill-keeper": lambda: _kill_all(_keeper(directory)),
        "kill-host": lambda: _kill_all([*_others(directory, me), *_keeper(directory), me]),
    }
    if fault.action == "raise":
        raise InjectedError(f"injected at {point} in epoch {epoch} ({fault})")
    actions[fault.action]()


def _keeper(directory: HostDir) -> list[Process]:
    keeper = read_process(directory.keeper)
    return [] if keeper is None else [keeper]


def _others(directory: HostDir, me: Process) -> list[Process]:
    return [entry.process for entry in read_roster(directory) if not entry.left and entry.process != me]


def _kill_all(processes: list[Process]) -> None:
    """Kill at one moment: all are stopped first, so that none sees another die. The last may be the caller."""
    for process in processes[:-1]:
        kill(process, signal.SIGSTOP)
    for process in processes:
        kill(process, signal.SIGKILL)


def refuse_in_one_process(faults: str) -> None:
    """Raise UsageError where a job without processes of its own is to have failures injected."""
    if parse(faults):
        raise UsageError(f"faults={faults!r}: failures are injected into ranks under mpirun, and this job has none")
