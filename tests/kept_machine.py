"""A machine with the hosts of one job: real keepers, real etcd, ranks without MPI, a launcher that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from taskgraph.backends.commits import Commits
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.processes import Process, Watch, alive, kill
from taskgraph.backends.slots import SlotDir
from taskgraph.backends.words import AbortWords
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import read_process
from taskgraph.run.host.keeper_spec import KeeperSpec
from taskgraph.run.keeper.etcd_keeping import EtcdKeeping
from taskgraph.run.keeper.guard import start_keeper, wait_for_etcd

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
        SlotDir.create(directory.slots, RUN)
        Commits.create(directory.commits, ranks)
        spec = KeeperSpec(
            job="job",
            run=RUN,
            host=f"n{number}",
            ranks=tuple(range(ranks)),
            backups=0,
            placement="buddy",
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
