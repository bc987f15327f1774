"""Real etcds for tests: one for all that is plain, and others to be killed, clustered, or made strict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from etcds import LIMIT_S, Connecting, Etcds, OwnEtcd

from taskgraph.backends import etcd_server
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.etcd_server import EtcdServer
from taskgraph.testing.contracts import Connect


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd that no test stops."""
    server = etcd_server.start(tmp_path_factory.mktemp("etcd"), LIMIT_S)
    yield server
    server.stop()


@pytest.fixture
def access(etcd: EtcdServer) -> EtcdAccess:
    """How that one is reached."""
    return EtcdAccess(endpoints=(etcd.endpoint,), timeout_s=LIMIT_S)


@pytest.fixture
def connect_to_etcd(access: EtcdAccess) -> Iterator[Connect]:
    """Connect to one new job in that one."""
    with Connecting(access) as connect:
        yield connect


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[OwnEtcd]:
    own = OwnEtcd(tmp_path / "etcd")
    yield own
    own.server.stop()


@pytest.fixture
def etcds(tmp_path: Path) -> Iterator[Etcds]:
    started = Etcds(tmp_path)
    yield started
    started.end()
