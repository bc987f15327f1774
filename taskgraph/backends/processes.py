"""Processes of this machine, named so that a number used again cannot be mistaken for the one before.

A pid alone is no name: the kernel hands it out again. A pid with the start time from ``/proc/PID/stat`` is one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
# Run in between, since no Python code is safe after a fork beside other threads: asks for SIGKILL at the end of the
# parent (PR_SET_PDEATHSIG), and becomes the program unless that end came first.
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
_EXITING = 0x4  # PF_EXITING: set as soon as a process dies, long before its memory is freed and its pidfd fires


class Condition(Enum):
    """What a process is doing, as far as it matters to those who watch it."""

    RUNNING = auto()
    STOPPED = auto()
    """By SIGSTOP or a terminal."""
    TRACED = auto()
    """Stopped by a debugger."""
    GONE = auto()
    """Dead, dying, or a zombie."""


class Stat(NamedTuple):
    """The fields of ``/proc/PID/stat`` that are used here."""

    name: str
    state: str
    parent: int
    flags: int
    start: int
    exit: int
    """Wait status, of a process that has ended or is about to; 0 where others may not know."""

    @property
    def condition(self) -> Condition:
        """What the process is doing."""
        if self.state in "ZXx" or self.flags & _EXITING:
            return Condition.GONE
        return {"T": Condition.STOPPED, "t": Condition.TRACED}.get(self.state, Condition.RUNNING)


class Process(NamedTuple):
    """One process, forever: pid, and start time in clock ticks since boot."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Name the process that has this pid now. None where there is none."""
        found = read_stat(pid)
        return None if found is None else cls(pid, found.start)

    @classmethod
    def current(cls) -> Process:
        """Name the calling process."""
        found = cls.of(os.getpid())
        if found is None:
            raise RuntimeError("/proc is not mounted: taskgraph needs it to tell processes apart")
        return found

    def __str__(self) -> str:
        return f"pid {self.pid}"


def read_stat(pid: int) -> Stat | None:
    """Read ``/proc/PID/stat``. None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parse_stat(text)


def parse_stat(text: str) -> Stat:
    """Take the content of a ``/proc/PID/stat`` apart."""
    opening, closing = text.index("("), text.rindex(")")  # a name may hold spaces and parentheses
    rest = text[closing + 2 :].split()
    name, state = text[opening + 1 : closing], rest[0]
    return Stat(name, state, int(rest[1]), int(rest[6]), int(rest[19]), int(rest[49]))


def condition(process: Process) -> Condition:
    """Look at a process."""
    found = read_stat(process.pid)
    return Condition.GONE if found is None or found.start != process.start else found.condition


def alive(process: Process) -> bool:
    """Whether a process is there and not on its way out; a stopped one is alive."""
    return condition(process) is not Condition.GONE


def name(process: Process) -> str:
    """Return the command name, cut by the kernel to 15 characters; empty where the process is gone."""
    found = read_stat(process.pid)
    return found.name if found is not None and found.start == process.start else ""


def ancestors(process: Process) -> Iterator[Process]:
    """Yield the parent, its parent, and so on, without init."""
    found = read_stat(process.pid)
    while found is not None and found.parent > 1:
        pid = found.parent
        found = read_stat(pid)
        if found is not None:
            yield Process(pid, found.start)


def everyone() -> Iterator[Process]:
    """Yield all processes of this machine, as far as this one sees them."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := Process.of(int(entry))) is not None:
            yield process


@contextlib.contextmanager
def killed_with_parent() -> Iterator[None]:
    """Let the kernel kill this process when its parent ends, as long as the context lasts."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    try:
        yield
    finally:
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(0))


def tied(command: Sequence[str]) -> list[str]:
    """Return a command that becomes `command`, to be killed by the kernel when the thread that started it ends."""
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def kill(process: Process, sig: int = signal.SIGKILL) -> bool:
    """Send a signal to exactly this process; its pid may have been used again, that one is never hit.

    Returns
    -------
    bool
        False where it is gone already.
    """
    descriptor = open_pidfd(process)
    if descriptor is None:
        return False
    try:
        if descriptor < 0:
            os.kill(process.pid, sig)
        else:
            signal.pidfd_send_signal(descriptor, sig)
    except ProcessLookupError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True


@contextlib.contextmanager
def unbound() -> Iterator[None]:
    """Let what this thread starts run on every core: a launcher binds a rank to one, where it spins."""
    bound = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(max(os.cpu_count() or 1, max(bound) + 1)))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, bound)


def open_pidfd(process: Process) -> int | None:
    """Return a pidfd; None if the process is gone, -1 if this kernel or Python has no pidfds."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    except (AttributeError, OSError):
        return -1 if alive(process) else None
    found = read_stat(process.pid)  # read after the open: what the descriptor holds cannot be replaced any more
    if found is None or found.start != process.start:
        os.close(descriptor)
        return None
    return descriptor


class Watch:
    """Waits for the end of several processes in one poll, with a way to be woken.

    `add`, `remove`, `wait` and `close` belong to one thread; `wake` may be called from any.
    """

    POLL_S = 0.05
    """How often a process is looked at where the kernel or this Python has no pidfds, in seconds."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._descriptors: dict[int, Process] = {}
        self._polled: set[Process] = set()
        self._gone: list[Process] = []
        self.quiet = True
        """Whether the last `wait` returned because its time was over."""
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._woken, select.POLLIN)

    def add(self, process: Process) -> None:
        """Watch a process too. One that is gone already is told by the next `wait`."""
        if process in self._polled or process in self._descriptors.values():
            return
        descriptor = open_pidfd(process)
        if descriptor is None:
            self._gone.append(process)
        elif descriptor < 0:
            self._polled.add(process)
        else:
            self._descriptors[descriptor] = process
            self._poll.register(descriptor, select.POLLIN)

    def add_descriptor(self, descriptor: int) -> None:
        """Let input on a file descriptor end a `wait` too. The caller reads it, and closes it after this watch."""
        self._poll.register(descriptor, select.POLLIN)

    def remove(self, process: Process) -> None:
        """Stop watching a process; if it is gone and nobody was told, nobody will be."""
        self._polled.discard(process)
        self._gone = [gone for gone in self._gone if gone != process]
        for descriptor in [d for d, watched in self._descriptors.items() if watched == process]:
            self._forget(descriptor)

    def wait(self, timeout_s: float) -> list[Process]:
        """Return the processes that have ended, each once; wait up to `timeout_s` seconds for one, or for `wake`."""
        if self._gone:
            timeout_s = 0
        if self._polled:
            timeout_s = min(timeout_s, self.POLL_S)
        ready = self._poll.poll(max(timeout_s, 0) * 1000)
        for descriptor, _ in ready:
            if descriptor == self._woken:
                self._drain()
            elif descriptor in self._descriptors:
                self._gone.append(self._forget(descriptor))
        for process in [p for p in self._polled if not alive(p)]:
            self._polled.remove(process)
            self._gone.append(process)
        ended, self._gone = self._gone, []
        self.quiet = not ready and not ended
        return ended

    def wake(self) -> None:
        """Make a `wait` return at once, now or the next time."""
        try:
            os.write(self._waker, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already
        except OSError:
            pass  # closed: nobody waits any more

    def close(self) -> None:
        """Watch nothing any more. Idempotent."""
        for descriptor in list(self._descriptors):
            self._forget(descriptor)
        for end in ("_woken", "_waker"):
            if (descriptor := getattr(self, end)) >= 0:
                setattr(self, end, -1)
                os.close(descriptor)

    def _forget(self, descriptor: int) -> Process:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        return self._descriptors.pop(descriptor)

    def _drain(self) -> None:
        try:
            while os.read(self._woken, 4096):
                pass
        except BlockingIOError:
            pass
