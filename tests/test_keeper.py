"""The keeper of a host: whatever is killed, and in whichever order, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_machine import LIMIT_S, RUN, Machine, expect, tell, until

from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.processes import Watch, alive, kill
from taskgraph.backends.words import OVER, AbortWords
from taskgraph.plan.ending import Ending
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import read_process
from taskgraph.run.keeper.guard import wait_for_etcd


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Machine]:
    base = tmp_path / "shared"
    base.mkdir()
    there = Machine(base)
    yield there
    there.close()


def test_after_a_normal_end_nothing_is_left_though_the_processes_live_on(there: Machine) -> None:
    host = there.host(2)
    ranks = [there.rank(host, index) for index in range(2)]
    there.keeper(host)
    there.etcd(host)
    tell(ranks[0], "end 0")
    for rank in ranks:
        expect(rank, "over 0")
        tell(rank, "leave")
        expect(rank, "left")
    there.assert_all_gone(limit_s=4)
    assert all(rank.poll() is None for rank in ranks)
    assert there.launcher.poll() is None


def test_when_the_launcher_is_killed_nothing_is_left(there: Machine) -> None:
    host = there.host(2)
    there.rank(host, 0)
    there.rank(host, 1)
    there.keeper(host)
    there.etcd(host)
    there.launcher.kill()
    there.assert_all_gone()
    assert [rank.wait(LIMIT_S) for rank in there.ranks] == [-signal.SIGKILL] * 2


def test_what_mpi_made_is_removed_when_the_launcher_was_killed(there: Machine, tmp_path: Path) -> None:
    session, segment, other = tmp_path / "ompi.77", tmp_path / "sm_segment.n.0.1.0", tmp_path / "users"
    (session / "1" / "0").mkdir(parents=True)
    session.chmod(0o700)
    segment.write_bytes(b"x")
    other.write_bytes(b"x")
    host = there.host(1)
    names = {"PMIX_SERVER_TMPDIR": str(session), "TMPDIR": str(tmp_path), "MAPPED": f"{segment}:{other}"}
    there.rank(host, env=names)
    there.keeper(host)
    there.launcher.kill()
    there.assert_all_gone()
    assert [session.exists(), segment.exists(), other.exists()] == [False, False, True]


def test_what_mpi_made_is_left_to_a_launcher_that_lives(there: Machine, tmp_path: Path) -> None:
    session = tmp_path / "ompi.77"
    session.mkdir(mode=0o700)
    host = there.host(1)
    rank = there.rank(host, env={"PMIX_SERVER_TMPDIR": str(session)})
    there.keeper(host)
    rank.kill()
    tell_status(there, host, Ending(status=0))
    there.assert_all_gone()
    assert session.exists()


def tell_status(there: Machine, host: HostDir, ending: Ending) -> None:
    coordinator = EtcdCoordinator(wait_for_etcd(host, LIMIT_S), "job", RUN)
    coordinator.write({"status": ending.encode()}, absent=("status",))
    coordinator.close()


def test_when_keeper_and_launcher_are_killed_at_once_nothing_is_left(there: Machine) -> None:
    host = there.host(2)
    there.rank(host, 0)
    there.rank(host, 1)
    there.etcd(host)
    kill(there.keeper(host))
    there.launcher.kill()
    there.assert_all_gone()


def test_when_all_ranks_and_the_launcher_are_killed_nothing_is_left(there: Machine) -> None:
    host = there.host(2)
    there.rank(host, 0)
    there.rank(host, 1)
    there.keeper(host)
    there.etcd(host)
    for rank in there.ranks:
        rank.kill()
    there.launcher.kill()
    there.assert_all_gone()


def test_a_rank_that_does_not_notice_the_failure_is_told_then_killed_after_its_grace(there: Machine) -> None:
    host = there.host(2, grace_s=0.2)
    one, deaf = there.rank(host, 0), there.rank(host, 1)
    there.keeper(host)
    words = AbortWords.open(host.words)
    deaf.send_signal(signal.SIGSTOP)
    tell(one, "end 1")
    expect(one, "over 1")
    until(lambda: words.get(1) == OVER, "the word of the other rank is set")
    tell(one, "leave")
    there.assert_all_gone()
    assert deaf.wait(LIMIT_S) == -signal.SIGKILL
    assert one.poll() is None
    words.close()


def test_after_a_success_a_rank_may_take_its_time(there: Machine) -> None:
    host = there.host(2, grace_s=0.0)
    quick, slow = there.rank(host, 0), there.rank(host, 1)
    keeper = there.keeper(host)
    tell(quick, "end 0")
    expect(quick, "over 0")
    tell(quick, "leave")
    expect(quick, "left")
    expect(slow, "over 0")
    watch = Watch()
    watch.add(keeper)
    assert watch.wait(3.0) == []
    watch.close()
    assert slow.poll() is None
    tell(slow, "leave")
    there.assert_all_gone()


def test_of_two_keepers_of_one_host_the_second_leaves(there: Machine) -> None:
    host = there.host(1)
    there.rank(host)
    first = there.keeper(host)
    again = subprocess.run(
        [sys.executable, "-m", "taskgraph.run.keeper", str(host.path)], timeout=LIMIT_S, check=True, capture_output=True
    )
    assert b"there is a keeper already" in again.stderr
    assert read_process(host.keeper) == first
    assert alive(first)


def test_a_keeper_of_a_host_that_was_given_up_leaves(there: Machine) -> None:
    missing = there.base / "missing"
    subprocess.run([sys.executable, "-m", "taskgraph.run.keeper", str(missing)], timeout=LIMIT_S, check=True)


def test_a_keeper_belongs_to_nobody_and_is_no_rank(there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("PMIX_RANK", "0")
    monkeypatch.setenv("USERS_OWN", "kept")
    keeper = there.keeper(there.host(1))
    status = Path(f"/proc/{keeper.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(status[3]) != os.getsid(0)
    environment = Path(f"/proc/{keeper.pid}/environ").read_bytes()
    assert b"OMPI_" not in environment
    assert b"PMIX_" not in environment
    assert b"USERS_OWN=kept" in environment
    assert os.readlink(f"/proc/{keeper.pid}/cwd") == "/"
    assert not os.readlink(f"/proc/{keeper.pid}/fd/1").startswith(("pipe:", "/dev/pts"))
    there.launcher.kill()
    there.assert_all_gone()


def test_a_rank_that_comes_after_its_launcher_was_killed_does_not_live_on(there: Machine) -> None:
    host = there.host(2)
    there.rank(host, 0)
    there.keeper(host)
    late = there.run("-c", LATE, str(host.path))
    expect(late, "ready")
    there.ranks[0].send_signal(signal.SIGSTOP)
    there.launcher.kill()
    tell(late, "now")
    there.assert_all_gone()
    assert late.wait(LIMIT_S) != 0


LATE = """
import sys, time
from taskgraph.backends.processes import Process
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.roster import add_rank
print("ready", flush=True)
sys.stdin.readline()
add_rank(HostDir.open(sys.argv[1]), 1, Process.current())
time.sleep(60)
"""
