"""Processes are told apart, watched and killed by pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from taskgraph.backends.processes import Condition, Process, Watch, alive, ancestors, condition, kill, name

LIMIT_S = 20.0


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.close()


def named(child: subprocess.Popen[bytes]) -> Process:
    process = Process.of(child.pid)
    assert process is not None
    return process


def wait_until_stopped(child: subprocess.Popen[bytes]) -> None:
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)


def test_a_running_process_is_alive(child: subprocess.Popen[bytes]) -> None:
    assert alive(named(child))
    assert condition(named(child)) is Condition.RUNNING


def test_a_stopped_process_is_alive_and_said_to_be_stopped(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGSTOP)
    wait_until_stopped(child)
    assert condition(named(child)) is Condition.STOPPED
    assert alive(named(child))


def test_a_zombie_is_gone(child: subprocess.Popen[bytes]) -> None:
    process = named(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped
    assert condition(process) is Condition.GONE
    assert not kill(process, signal.SIGTERM) or not alive(process)


def test_a_pid_used_again_is_another_process(child: subprocess.Popen[bytes]) -> None:
    earlier = named(child)._replace(start=named(child).start - 1)
    assert condition(earlier) is Condition.GONE
    assert name(earlier) == ""
    assert not kill(earlier)
    assert alive(named(child))


def test_no_process_has_a_pid_that_is_free() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert Process.of(ended.pid) is None


def test_the_ancestors_begin_with_the_parent_and_end_before_init(child: subprocess.Popen[bytes]) -> None:
    line = list(ancestors(named(child)))
    assert line[0] == Process.current()
    assert all(process.pid > 1 for process in line)


def test_a_name_with_spaces_and_parentheses_is_read_whole() -> None:
    code = "open('/proc/self/comm', 'w').write('a) S (b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        assert name(named(odd)) == "a) S (b"
        assert next(ancestors(named(odd))).pid == os.getpid()
        odd.kill()


def test_a_kill_is_told_by_the_watch_once(child: subprocess.Popen[bytes], watch: Watch) -> None:
    process = named(child)
    watch.add(process)
    assert watch.wait(0) == []
    assert kill(process)
    assert watch.wait(LIMIT_S) == [process]
    assert watch.wait(0) == []


def test_a_process_that_is_gone_when_it_is_added_is_told_at_once(child: subprocess.Popen[bytes], watch: Watch) -> None:
    process = named(child)
    child.kill()
    child.wait()
    watch.add(process)
    assert watch.wait(LIMIT_S) == [process]


def test_a_process_added_twice_is_told_once(child: subprocess.Popen[bytes], watch: Watch) -> None:
    watch.add(named(child))
    watch.add(named(child))
    child.kill()
    assert len(watch.wait(LIMIT_S)) == 1
    assert watch.wait(0) == []


def test_a_process_that_was_removed_is_told_no_more(child: subprocess.Popen[bytes], watch: Watch) -> None:
    watch.add(named(child))
    watch.remove(named(child))
    child.kill()
    child.wait()
    assert watch.wait(0) == []


def test_a_process_that_was_gone_when_it_was_added_and_then_removed_is_told_no_more(
    child: subprocess.Popen[bytes], watch: Watch
) -> None:
    process = named(child)
    child.kill()
    child.wait()
    watch.add(process)
    watch.remove(process)
    assert watch.wait(0) == []


def test_wake_ends_a_wait_from_another_thread_and_before_it(watch: Watch) -> None:
    watch.wake()
    assert watch.wait(LIMIT_S) == []
    waker = threading.Timer(0.05, watch.wake)
    waker.start()
    assert watch.wait(LIMIT_S) == []
    waker.join()


def test_input_on_a_descriptor_ends_a_wait(watch: Watch) -> None:
    reader, writer = os.pipe()
    watch.add_descriptor(reader)
    os.write(writer, b"x")
    assert watch.wait(LIMIT_S) == []
    watch.close()
    os.close(reader)
    os.close(writer)


def test_a_watch_can_be_closed_twice_and_woken_after(watch: Watch) -> None:
    watch.close()
    watch.close()
    watch.wake()


def test_without_pidfds_a_death_is_found_by_looking(
    child: subprocess.Popen[bytes], watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    process = named(child)
    watch.add(process)
    assert kill(process)
    while not (gone := watch.wait(LIMIT_S)):
        assert alive(process) or child.wait(LIMIT_S) is not None
    assert gone == [process]
