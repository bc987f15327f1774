"""What the tests with real etcds share; the fixtures are in `etcd_fixtures`."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from taskgraph.backends import etcd_server
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.etcd_program import find_etcd

LIMIT_S = 30.0
_numbers = itertools.count()


def new_job() -> str:
    """Return the name of a job that nobody else has."""
    return f"test-{os.getpid()}-{next(_numbers)}"


class Connecting:
    """Makes coordinators of one new job, and closes them at the end."""

    def __init__(self, access: EtcdAccess) -> None:
        self._access = access
        self._job = new_job()
        self._made = ExitStack()

    def __enter__(self) -> Callable[..., EtcdCoordinator]:
        return self._connect

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def _connect(self, run: str | None = None, access: EtcdAccess | None = None) -> EtcdCoordinator:
        return self._made.enter_context(closing(EtcdCoordinator(access or self._access, self._job, run)))


class OwnEtcd:
    """An etcd that a test may kill, wipe and start again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = etcd_server.start(directory, LIMIT_S)

    @property
    def access(self) -> EtcdAccess:
        return EtcdAccess(endpoints=(self.server.endpoint,), timeout_s=LIMIT_S)

    def kill(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server = self.server.restart(LIMIT_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Etcds:
    """Starts etcds with flags of the test's choice; ends them all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, flags: Sequence[str]) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
        command = [find_etcd(), "--name", name, "--data-dir", self._directory / name, *flags]
        with open(self._directory / f"{name}.log", "ab") as output:
            self.processes[name] = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(LIMIT_S)

    def end(self) -> None:
        for name in list(self.processes):
            self.kill(name)


def wait_until_serving(url: str, context: ssl.SSLContext | None = None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2, context=context) as response:
                if response.status == 200:
                    return
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not serve"
        time.sleep(0.02)


class Proxy:
    """Passes connections on to etcd, and loses on request what goes one way or the other."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.requests_lost = False
        self.answers_lost = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and lose nothing from here on."""
        self.requests_lost = self.answers_lost = False
        while self._open:
            connection = self._open.pop()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            threading.Thread(target=self._pass, args=(client, server, "requests_lost"), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, "answers_lost"), daemon=True).start()

    def _pass(self, source: socket.socket, destination: socket.socket, lost: str) -> None:
        with source, suppress(OSError):
            while data := source.recv(65536):
                if not getattr(self, lost):
                    destination.sendall(data)
        with suppress(OSError):
            destination.shutdown(socket.SHUT_RDWR)
