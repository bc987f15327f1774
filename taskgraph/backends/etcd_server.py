"""The etcd that a job brings itself: one member, with its data in a private directory.

It listens on loopback; beyond, only with TLS and only for who has a certificate of the run's own authority.

Nothing here imports gRPC: a keeper starts etcd first and takes its time with the client afterwards.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import random
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskgraph.backends.addresses import endpoint
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.etcd_program import find_etcd
from taskgraph.backends.launcher import LAUNCHERS_OWN
from taskgraph.backends.private import open_private
from taskgraph.backends.processes import Process, alive, kill, tied, unbound
from taskgraph.backends.tls import TlsFiles
from taskgraph.errors import CoordinatorError, UsageError

log = logging.getLogger(__name__)

# Below the ports that the kernel hands out for outgoing connections: there, a client that looks for an etcd that is
# down can be given the very port it connects to, and then has itself for a server.
_PORTS = range(20_000, 32_000)
_PORTS_TRIED = 20
_LOOPBACK = "127.0.0.1"
_END_S = 5.0

# Nothing of the launcher, or it takes this process for a rank; no setting of a user's own etcd; no secret of the job.
_KEPT_OUT = (*LAUNCHERS_OWN, "ETCD_", "TASKGRAPH_")


@dataclass(frozen=True, slots=True)
class EtcdServer:
    """An etcd that was started. Rebuilt from its first four fields, it can be used from another process.

    Attributes
    ----------
    pid, start_time
        Its process; the second, in clock ticks since boot, tells it from a later one with the same pid.
    endpoint
        Where clients on this machine reach it, ``host:port``.
    directory
        Holds its data and its log, ``etcd.log``.
    """

    pid: int
    start_time: int
    endpoint: str
    directory: str
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)
    """Set in the process that started it, which has to take in its end."""

    @property
    def process(self) -> Process:
        """The process, named so that a pid used again is no match."""
        return Process(self.pid, self.start_time)

    def alive(self) -> bool:
        """Whether the process is there."""
        return alive(self.process)

    def access(self) -> EtcdAccess:
        """Return how it is reached, secrets included."""
        files = TlsFiles(Path(self.directory) / "tls")
        if not files.addresses():
            return EtcdAccess(endpoints=(self.endpoint,))
        port = _port(self.endpoint)
        return EtcdAccess(
            endpoints=tuple(endpoint(address, port) for address in files.addresses()),
            ca=files.ca.read_text(encoding="ascii"),
            cert=files.client_cert.read_text(encoding="ascii"),
            key=files.client_key.read_text(encoding="ascii"),
        )

    def stop(self) -> None:
        """Kill it and wait for its end; the data stay. Idempotent.

        Raises
        ------
        CoordinatorError
            It did not end within 5 s.
        """
        kill(self.process, signal.SIGKILL)  # its data are safe against that, and its clients see its end at once
        deadline = time.monotonic() + _END_S
        if self.child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(_END_S)
        while self.alive():
            if time.monotonic() > deadline:
                raise CoordinatorError(f"etcd (pid {self.pid}) did not end within {_END_S} s")
            time.sleep(0.005)

    def restart(self, timeout_s: float = 10.0, *, ends_with_parent: bool = False) -> EtcdServer:
        """Stop it if it runs, and start it on its data, at the same endpoint. Arguments and errors as for `start`."""
        self.stop()
        port = _port(self.endpoint)
        return _start(find_etcd(), Path(self.directory), [port] * _PORTS_TRIED, timeout_s, ends_with_parent)


def start(
    directory: Path, timeout_s: float = 10.0, *, addresses: Sequence[str] = (), ends_with_parent: bool = False
) -> EtcdServer:
    """Start an etcd on free ports and wait until it serves.

    Parameters
    ----------
    directory
        For data and log. It is made if it is missing, and must be of mode 0700 if it is not.
    timeout_s
        The limit for all of it, in seconds.
    addresses
        Of this machine, where others are to reach it; with any, TLS is on. None: loopback only.
    ends_with_parent
        Let the kernel kill it when the thread that calls this ends.

    Raises
    ------
    UsageError
        There is no etcd to start, or the directory is open to others.
    CoordinatorError
        It does not serve within the limit; the message has the end of its log.
    """
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_mode & 0o077:
        raise UsageError(f"{directory} is open to other users: etcd's data need a directory of mode 0700")
    if addresses:
        TlsFiles(directory / "tls").make(addresses)
    return _start(find_etcd(), directory, _free_ports(), timeout_s, ends_with_parent)


def _port(where: str) -> int:
    return int(where.rpartition(":")[2])


def _free_ports() -> Iterator[int]:
    for _ in range(_PORTS_TRIED):
        port = random.choice(_PORTS)
        if _is_free(port):
            yield port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
    return True


def _start(
    program: Path, directory: Path, ports: Iterator[int] | list[int], timeout_s: float, ends_with_parent: bool
) -> EtcdServer:
    begin = time.monotonic()
    flags = ["--unsafe-no-fsync"]  # what only a crash of the machine loses is lost with it: the job is there, too
    words = "no port was free"
    for port in ports:
        child, words_from = _spawn(program, directory, port, flags, ends_with_parent)
        if _serves(child, port, TlsFiles(directory / "tls"), begin + timeout_s):
            server = _of(child, port, directory)
            log.info("etcd serves at %s after %.0f ms", server.endpoint, 1000 * (time.monotonic() - begin))
            return server
        words = _words_since(directory, words_from)
        if "flag provided but not defined" in words and flags:
            flags = []  # a release that does not have it
        elif "address already in use" not in words or time.monotonic() - begin >= timeout_s:
            break
        else:
            time.sleep(0.05)
    waited = time.monotonic() - begin
    raise CoordinatorError(f"etcd ({program}) does not start: gave up after {waited:.1f} s; its last words: {words}")


def _spawn(
    program: Path, directory: Path, port: int, flags: list[str], ends_with_parent: bool
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process; return it with the place in the log where its words begin."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_KEPT_OUT)}
    command = [str(program), *_flags(directory, port), *flags]
    with open(_log_of(directory), "ab", opener=open_private) as output, unbound():
        words_from = output.tell()
        child = subprocess.Popen(
            tied(command) if ends_with_parent else command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
        return child, words_from


def _flags(directory: Path, port: int) -> list[str]:
    peer = f"http://{_LOOPBACK}:1"  # never dialled: there is but one member
    return [
        *("--name", "taskgraph", "--data-dir", str(directory / "data")),
        *_client_flags(TlsFiles(directory / "tls"), port),
        *("--listen-peer-urls", f"http://{_LOOPBACK}:0", "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"taskgraph={peer}"),
        # A lone member waits for an election timeout before it elects itself: that is most of the time of a start.
        *("--heartbeat-interval", "20", "--election-timeout", "100"),
        *("--max-txn-ops", "100000", "--max-request-bytes", str(10 << 20)),
        *("--auto-compaction-mode", "revision", "--auto-compaction-retention", "100000"),
        *("--log-level", "warn"),
    ]


def _client_flags(tls: TlsFiles, port: int) -> list[str]:
    addresses = [_LOOPBACK, *tls.addresses()]
    if len(addresses) == 1:
        url = f"http://{_LOOPBACK}:{port}"
        return ["--listen-client-urls", url, "--advertise-client-urls", url]
    urls = ",".join(f"https://{endpoint(address, port)}" for address in addresses)
    return [
        *("--listen-client-urls", urls, "--advertise-client-urls", urls, "--client-cert-auth"),
        *("--trusted-ca-file", str(tls.ca), "--cert-file", str(tls.cert), "--key-file", str(tls.key)),
    ]


def _serves(child: subprocess.Popen[bytes], port: int, tls: TlsFiles, deadline: float) -> bool:
    """Wait until it is well. Where it ends, or the time does, end it and return False."""
    context = tls.client() if tls.addresses() else None
    try:
        while child.poll() is None and time.monotonic() < deadline:
            if _is_healthy(port, context, max(0.1, min(1.0, deadline - time.monotonic()))) and _listens(
                child.pid, port
            ):
                return True  # if it did not listen, it would be another etcd that has the port
            time.sleep(0.005)
    except BaseException:
        _end(child)
        raise
    _end(child)
    return False


def _is_healthy(port: int, context: ssl.SSLContext | None, timeout_s: float) -> bool:
    if context is None:
        connection = http.client.HTTPConnection(_LOOPBACK, port, timeout=timeout_s)
    else:
        connection = http.client.HTTPSConnection(_LOOPBACK, port, timeout=timeout_s, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listens(pid: int, port: int) -> bool:
    """Tell whether it is this process that listens at the port."""
    with contextlib.suppress(OSError):
        sockets = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        fields = [line.split() for line in sockets]
        listening = {f"socket:[{of[9]}]" for of in fields if of[3] == "0A" and of[1].endswith(f":{port:04X}")}
        opened = f"/proc/{pid}/fd"
        return any(os.readlink(f"{opened}/{number}") in listening for number in os.listdir(opened))
    return False


def _of(child: subprocess.Popen[bytes], port: int, directory: Path) -> EtcdServer:
    process = Process.of(child.pid)
    if process is None:
        raise CoordinatorError(f"etcd (pid {child.pid}) ended as soon as it had started; see {_log_of(directory)}")
    return EtcdServer(process.pid, process.start, f"{_LOOPBACK}:{port}", str(directory), child)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait(_END_S)


def _log_of(directory: Path) -> Path:
    return directory / "etcd.log"


def _words_since(directory: Path, offset: int) -> str:
    text = _log_of(directory).read_bytes()[offset:].decode(errors="replace").strip()
    return text[-1000:] or "none"
