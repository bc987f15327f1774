"""What a keeper makes of the processes of its ranks: who died and how, who is stopped, and when it accuses nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from kept_machine import until

from taskgraph.backends.observed import Observed
from taskgraph.backends.processes import Condition, Process, condition
from taskgraph.plan.evidence import Evidence
from taskgraph.run.host.roster import Entry
from taskgraph.run.keeper.rank_watch import JUMP_S, STOPPED_S, RankWatch


class Clock:
    """Time that passes only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that exits with the code that it reads."""
    command = "import os, sys; print(flush=True); os._exit(int(sys.stdin.readline()))"
    child = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.communicate()


def named(child: subprocess.Popen[bytes]) -> Process:
    process = Process.of(child.pid)
    assert process is not None
    return process


def watch_of(child, clock, *, left=False, launcher=(), kills=lambda: 0) -> RankWatch:
    watch = RankWatch(lambda index: left, launcher, 3.0, clock, kills)
    watch.know([Entry(0, named(child), (), False)])
    return watch


def exit_with(child: subprocess.Popen[bytes], code: int) -> None:
    assert child.stdin is not None
    child.stdin.write(f"{code}\n".encode())
    child.stdin.flush()
    process = named(child)
    until(lambda: condition(process) is Condition.GONE, "the child has ended")


def test_a_death_is_told_once_with_the_exit_code(child):
    watch = watch_of(child, Clock())
    assert watch.look() == []
    exit_with(child, 3)
    (death,) = watch.look()
    assert (death.index, death.evidence) == (0, Evidence.PROCESS)
    assert death.detail == f"pid {child.pid} exited with code 3"
    assert watch.look() == []


def test_a_signal_is_named_and_a_kill_for_lack_of_memory_guessed(child):
    kills = iter([5, 5, 6])
    watch = watch_of(child, Clock(), kills=lambda: next(kills))
    child.kill()
    until(lambda: condition(named(child)) is Condition.GONE, "the child is dead")
    (death,) = watch.look()
    assert death.detail.endswith("killed by SIGKILL, it seems by the kernel for lack of memory")


def test_how_a_process_ended_is_known_after_its_parent_took_notice_where_the_kernel_tells(child):
    observed = Observed(named(child))
    exit_with(child, 7)
    child.wait()
    assert observed.condition() is Condition.GONE
    assert str(observed.exit()) in ("exited with code 7", "ended")  # the latter before Linux 6.15
    observed.close()
    observed.close()


def test_a_rank_that_has_left_in_order_is_nobodys_business(child):
    watch = watch_of(child, Clock(), left=True)
    exit_with(child, 0)
    assert watch.look() == []


def test_a_rank_is_dead_once_it_was_stopped_for_long_enough(child):
    clock = Clock()
    watch = watch_of(child, clock)
    stop(child)
    assert found_in(watch, clock, STOPPED_S - 0.2) == []
    (death,) = found_in(watch, clock, 0.4)
    assert death.evidence is Evidence.STOPPED


def test_who_was_suspended_itself_accuses_nobody_for_the_time_of_a_lease(child):
    clock = Clock()
    watch = watch_of(child, clock)
    stop(child)
    watch.look()
    clock.now += 10 * JUMP_S
    assert found_in(watch, clock, 2.8) == []
    assert len(found_in(watch, clock, 0.4)) == 1


def test_nobody_is_accused_of_being_stopped_while_the_launcher_is(child):
    clock = Clock()
    launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        watch = watch_of(child, clock, launcher=[named(launcher)])
        for process in (launcher, child):
            stop(process)
        assert found_in(watch, clock, 2 * STOPPED_S) == []
        launcher.send_signal(signal.SIGCONT)
        until(lambda: condition(named(launcher)) is Condition.RUNNING, "the launcher goes on")
        assert len(found_in(watch, clock, 2 * STOPPED_S)) == 1
    finally:
        launcher.kill()
        launcher.communicate()


def stop(child: subprocess.Popen[bytes]) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: condition(named(child)) is Condition.STOPPED, "the child is stopped")


def found_in(watch: RankWatch, clock: Clock, seconds: float) -> list:
    """Look ten times a second, for so long."""
    found = watch.look()
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        found += watch.look()
    return found
