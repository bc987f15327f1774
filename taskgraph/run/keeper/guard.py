"""Start the keeper of a host, and start it again where it was killed."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.launcher import LAUNCHERS_OWN
from taskgraph.backends.private import open_private
from taskgraph.backends.processes import alive, unbound
from taskgraph.errors import CoordinatorError, UsageError
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import lock, read_process, write_atomically
from taskgraph.run.host.keeper_spec import KeeperSpec

log = logging.getLogger(__name__)

_PROGRAM = Path(__file__).resolve().with_name("__main__.py")


def start_keeper(directory: HostDir, spec: KeeperSpec) -> None:
    """Start the keeper of a host; one rank of the host does.

    The keeper belongs to nobody: it has its own session, no terminal, and no parent that would have to wait for it.
    It writes to files in `directory` only.
    """
    write_atomically(directory.spec, spec.encode())
    _spawn(directory)


def tell_etcd(directory: HostDir, access: EtcdAccess) -> None:
    """Tell the keeper and the ranks of a host how etcd is reached, on a host whose keeper does not bring it."""
    write_atomically(directory.etcd_access, access.encode())
    directory.ring()


def wait_for_etcd(directory: HostDir, timeout_s: float) -> EtcdAccess:
    """Wait until it is known on this host how etcd is reached.

    Raises
    ------
    UsageError
        The keeper says why there will be no etcd.
    CoordinatorError
        Nothing was known within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if directory.etcd_access.exists():
            return EtcdAccess.decode(directory.etcd_access.read_text(encoding="utf-8"))
        if directory.problem.exists():
            raise UsageError(directory.problem.read_text(encoding="utf-8"))
        if time.monotonic() > deadline:
            raise CoordinatorError(f"the job's etcd was not up within {timeout_s:.1f} s{_last_words(directory)}")
        time.sleep(0.005)  # another process's file: there is no event to wait for


class KeeperGuard:
    """The duty of each rank's sidecar: see that the keeper lives, and start it again if not.

    Parameters
    ----------
    directory
        Of the host.
    attempts
        How many times this rank restarts it: a keeper that keeps dying must not be restarted forever.
    """

    needs_etcd = False
    EVERY_S = 0.5
    START_S = 10.0
    """How long a keeper may take from its start until it has named itself, in seconds."""

    def __init__(self, directory: HostDir, *, attempts: int = 5) -> None:
        self._directory = directory
        self._left = attempts
        self._starting: tuple[int, float] | None = None
        self._named_by = math.inf

    def turn(self, coordinator: Coordinator, now: float) -> float:
        """Look at the keeper."""
        keeper = read_process(self._directory.keeper)
        lives = keeper is not None and alive(keeper)
        if self._starting is not None:
            if not lives and now < self._starting[1]:
                return self.EVERY_S / 5
            self._release()
        if lives:
            self._named_by = math.inf
            return self.EVERY_S
        if not self._directory.exists():
            return math.inf  # the keeper has cleaned up: there is nothing to keep
        self._named_by = min(self._named_by, now + self.START_S)
        if keeper is None and now < self._named_by:
            return self.EVERY_S  # the first start is not through yet
        if self._left == 0:
            log.error("the keeper of this host cannot be kept alive; see %s", self._directory.log)
            return math.inf
        self._start(now)
        return self.EVERY_S / 5

    def finish(self, coordinator: Coordinator) -> None:
        """Watch it no longer; where it is dead at this moment, start one for what is to be done after the ranks."""
        self._release()
        keeper = read_process(self._directory.keeper)
        if keeper is not None and not alive(keeper) and self._directory.exists():
            self._start(0.0)
            self._release()

    def _start(self, now: float) -> None:
        try:
            held = lock(self._directory.start_lock)
        except FileNotFoundError:  # the directory was removed
            return
        if held is None:
            return  # another rank is at it
        log.warning("the keeper of this host is gone: it is started again")
        self._left -= 1
        self._starting = (held, now + self.START_S)
        _spawn(self._directory)

    def _release(self) -> None:
        if self._starting is not None:
            os.close(self._starting[0])
            self._starting = None


def _spawn(directory: HostDir) -> None:
    """Start a keeper through a shell that ends at once, so that it is nobody's child and leaves no zombie."""
    command = [sys.executable, "-P", str(_PROGRAM), str(directory.path)]
    with open(directory.log, "ab", opener=open_private) as out, unbound():
        shell = subprocess.Popen(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
    try:
        shell.wait(10)
    except subprocess.TimeoutExpired:
        shell.kill()
        shell.wait()
        raise CoordinatorError(f"{command[0]} could not be started within 10 s") from None


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS_OWN)}
    environment["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # the keeper starts an etcd again while gRPC's threads run
    return environment


def _last_words(directory: HostDir) -> str:
    try:
        lines = directory.log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(f"\n  keeper: {line}" for line in lines[-5:])
