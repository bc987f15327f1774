"""The job's own etcd where other machines have to reach it: only with a certificate of the run's own authority.

Another address of loopback stands for the machine's address on the network.
"""

from __future__ import annotations

import socket
import ssl
import stat
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
from certificates import Authority
from etcds import LIMIT_S

from taskgraph.backends import etcd_server
from taskgraph.backends.addresses import endpoint, own_addresses, reachable
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.etcd_server import EtcdServer
from taskgraph.backends.tls import TlsFiles
from taskgraph.errors import CoordinatorUnreachable
from taskgraph.run.keeper.etcd_keeping import EtcdKeeping

OUTSIDE = "127.0.0.2"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    server = etcd_server.start(tmp_path / "etcd", LIMIT_S, addresses=[OUTSIDE])
    yield server
    server.stop()


def claim(access: EtcdAccess) -> None:
    with closing(EtcdCoordinator(access, "job")) as coordinator:
        coordinator.claim("run")
        assert coordinator.read() == {"run": b"run"}


def test_who_was_given_the_runs_certificate_reaches_it(server: EtcdServer):
    access = server.access()
    assert [where.rpartition(":")[0] for where in access.endpoints] == [OUTSIDE]
    claim(access)


def test_a_stranger_is_refused_at_every_address(server: EtcdServer, tmp_path: Path):
    access = server.access()
    port = access.endpoints[0].rpartition(":")[2]
    assert access.ca is not None
    trusting = ssl.create_default_context(cadata=access.ca)
    foreign = Authority(tmp_path, "foreign").sign("stranger")
    with_foreign = ssl.create_default_context(cadata=access.ca)
    with_foreign.load_cert_chain(foreign.cert, foreign.key)
    for address in (OUTSIDE, "127.0.0.1"):
        for context in (trusting, with_foreign):
            with pytest.raises((URLError, ConnectionError)):
                urllib.request.urlopen(f"https://{address}:{port}/health", timeout=5, context=context)
        with pytest.raises((URLError, ConnectionError)):
            urllib.request.urlopen(f"http://{address}:{port}/health", timeout=5)


@pytest.mark.parametrize("missing", [{"cert": None, "key": None}, {"ca": None, "cert": None, "key": None}])
def test_a_client_without_a_certificate_is_refused(server: EtcdServer, missing: dict[str, None]):
    with closing(EtcdCoordinator(replace(server.access(), timeout_s=2.0, **missing), "job")) as coordinator:
        with pytest.raises(CoordinatorUnreachable):
            coordinator.claim("run")


def test_a_client_takes_no_other_for_the_runs_own(server: EtcdServer, tmp_path: Path):
    foreign = Authority(tmp_path, "foreign")
    access = replace(server.access(), ca=foreign.cert.read_text(), timeout_s=2.0)
    with closing(EtcdCoordinator(access, "job")) as coordinator, pytest.raises(CoordinatorUnreachable):
        coordinator.claim("run")


def test_started_again_it_is_reached_as_before(server: EtcdServer):
    access = server.access()
    claim(access)
    again = server.restart(LIMIT_S)
    try:
        claim(access)
        assert again.access() == access
    finally:
        again.stop()


def test_what_is_secret_is_its_users_alone_and_the_authority_cannot_sign_again(tmp_path: Path):
    files = TlsFiles(tmp_path / "tls")
    files.make([OUTSIDE])
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    assert [path for path in files.directory.iterdir() if stat.S_IMODE(path.stat().st_mode) != 0o600] == []
    keys = [path.name for path in files.directory.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(keys) == ["client.key", "server.key"]


def test_the_secrets_of_an_access_are_in_no_text_of_it(server: EtcdServer):
    assert "PRIVATE" not in repr(server.access())


def test_a_keeper_that_takes_over_says_the_same(tmp_path: Path):
    first = EtcdKeeping(tmp_path / "data")
    access = first.begin([OUTSIDE])
    try:
        assert EtcdKeeping(tmp_path / "data").begin([OUTSIDE]) == access
    finally:
        first.end()
    assert not (tmp_path / "data").exists()


def test_addresses_are_those_that_others_may_use():
    assert not [address for address in own_addresses() if address.startswith(("127.", "fe80", "::1"))]


def test_an_endpoint_that_takes_no_connection_is_left_out():
    with socket.create_server((OUTSIDE, 0)) as listening, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        good, bad = endpoint(OUTSIDE, listening.getsockname()[1]), endpoint("127.0.0.1", silent.getsockname()[1])
        assert reachable([bad, good], 2.0) == (good,)


def test_an_address_of_version_6_is_bracketed():
    assert endpoint("fd00::1", 80) == "[fd00::1]:80"
