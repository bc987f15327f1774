"""Several members, and answers that get lost: what a coordinator makes of them."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator

import pytest
from etcds import LIMIT_S, Connecting, Etcds, Proxy, free_port, wait_until_serving

from taskgraph.backends.coordinator import Put, Reachable, Resync, Unreachable
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.testing.contracts import Connect, CoordinatorContract, collect

pytest_plugins = ["etcd_fixtures"]


class Cluster:
    """Three members on loopback, with the limits that etcd has by itself."""

    def __init__(self, etcds: Etcds) -> None:
        self._etcds = etcds
        self.names = {f"127.0.0.1:{free_port()}": f"m{number}" for number in range(3)}
        peers = {name: f"http://127.0.0.1:{free_port()}" for name in self.names.values()}
        self._flags = {
            name: [
                *("--listen-client-urls", f"http://{endpoint}", "--advertise-client-urls", f"http://{endpoint}"),
                *("--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]),
                *("--initial-cluster", ",".join(f"{member}={url}" for member, url in peers.items())),
                *("--heartbeat-interval", "50", "--election-timeout", "500"),
            ]
            for endpoint, name in self.names.items()
        }
        for endpoint in self.names:
            self.start(endpoint)
        for endpoint in self.names:
            wait_until_serving(f"http://{endpoint}")

    def start(self, endpoint: str) -> None:
        name = self.names[endpoint]
        self._etcds.start(name, self._flags[name])

    def kill(self, endpoint: str) -> None:
        self._etcds.kill(self.names[endpoint])


@pytest.fixture
def cluster(etcds: Etcds) -> Cluster:
    return Cluster(etcds)


@pytest.fixture
def connect(cluster: Cluster) -> Iterator[Callable[..., EtcdCoordinator]]:
    with Connecting(EtcdAccess(endpoints=tuple(cluster.names), timeout_s=LIMIT_S)) as connect:
        yield connect


def in_use(coordinator: EtcdCoordinator) -> str:
    return coordinator._channel.endpoint().address


def test_losing_the_member_in_use_loses_no_event(cluster: Cluster, connect):
    coordinator = connect()
    coordinator.claim("run")
    coordinator.news(LIMIT_S)
    events = []
    for number in range(3):
        lost = in_use(coordinator)
        coordinator.write({f"before{number}": b""})
        cluster.kill(lost)
        coordinator.write({f"after{number}": b""})
        events += collect(coordinator, lambda events, key=f"after{number}": Put(key, b"") in events, LIMIT_S)
        assert in_use(coordinator) != lost
        cluster.start(lost)
        wait_until_serving(f"http://{lost}")
    keys = [event.key for event in events if isinstance(event, Put)]
    assert list(dict.fromkeys(keys)) == [f"{when}{number}" for number in range(3) for when in ("before", "after")]
    assert not any(isinstance(event, Resync) for event in events)


def test_a_watch_on_a_member_without_quorum_is_not_silent(cluster: Cluster, connect):
    coordinator = connect()
    coordinator.claim("run")
    coordinator.news(LIMIT_S)
    coordinator.write({"a": b""})
    collect(coordinator, bool, LIMIT_S)
    others = [endpoint for endpoint in cluster.names if endpoint != in_use(coordinator)]
    for endpoint in others:
        cluster.kill(endpoint)
    collect(coordinator, lambda events: any(isinstance(event, Unreachable) for event in events), LIMIT_S)
    cluster.start(others[0])
    collect(coordinator, lambda events: Reachable() in events, LIMIT_S)
    assert coordinator.write({"b": b""})
    assert collect(coordinator, bool, LIMIT_S)[0] == Put("b", b"")


def test_many_keys_go_into_one_transaction_within_the_usual_limits_of_a_server(connect):
    coordinator = connect()
    coordinator.claim("run")
    CoordinatorContract.test_hundreds_of_keys_are_written_in_one_transaction(None, coordinator)  # type: ignore[arg-type]


def test_an_endpoint_that_is_down_is_passed_over_at_the_start(cluster: Cluster, connect):
    down, *_ = cluster.names
    cluster.kill(down)
    coordinator = connect()
    coordinator.claim("run")
    assert in_use(coordinator) != down


def test_several_members_of_a_release_that_corrupts_are_warned_of(cluster: Cluster, connect, caplog):
    coordinator = connect()
    with caplog.at_level(logging.WARNING, "taskgraph.backends.etcd"):
        coordinator.claim("run")
    version = coordinator._channel.call("Maintenance.Status", coordinator._rpc.StatusRequest()).message.version
    assert any("can corrupt" in message for message in caplog.messages) == bool(re.fullmatch(r"3\.5\.[0-2]", version))


class TestLostAnswers:
    """A write whose answer got lost is repeated, and knows itself again."""

    @pytest.fixture
    def proxy(self, etcd) -> Iterator[Proxy]:
        proxy = Proxy(etcd.endpoint)
        yield proxy
        proxy.close()

    @pytest.fixture
    def direct(self, connect_to_etcd: Connect) -> EtcdCoordinator:
        direct = connect_to_etcd()
        direct.claim("run")
        direct.news(LIMIT_S)
        return direct

    @pytest.fixture
    def behind(self, proxy: Proxy, connect_to_etcd, direct) -> EtcdCoordinator:
        behind = connect_to_etcd("run", EtcdAccess(endpoints=(proxy.endpoint,), timeout_s=LIMIT_S))
        behind.read()
        return behind

    @staticmethod
    def create(coordinator: EtcdCoordinator, value: bytes) -> tuple[threading.Thread, list[bool]]:
        outcome: list[bool] = []
        thread = threading.Thread(
            target=lambda: outcome.append(coordinator.write({"status": value, "x": value}, absent=["status"]))
        )
        thread.start()
        return thread, outcome

    def test_a_creation_that_went_through_is_a_success(self, proxy: Proxy, direct, behind):
        proxy.answers_lost = True
        thread, outcome = self.create(behind, b"mine")
        collect(direct, lambda events: Put("status", b"mine") in events, LIMIT_S)
        proxy.cut()
        thread.join(LIMIT_S)
        assert outcome == [True]
        assert direct.read("status") == {"status": b"mine"}

    def test_a_creation_that_did_not_and_came_second_is_none(self, proxy: Proxy, direct, behind):
        proxy.requests_lost = True
        thread, outcome = self.create(behind, b"mine")
        assert direct.write({"status": b"theirs"}, absent=["status"])
        proxy.cut()
        thread.join(LIMIT_S)
        assert outcome == [False]
        assert direct.read() == {"run": b"run", "status": b"theirs"}

    def test_a_silent_connection_is_left_for_another_endpoint(self, proxy: Proxy, etcd, direct, connect_to_etcd):
        both = EtcdAccess(endpoints=(proxy.endpoint, etcd.endpoint), timeout_s=LIMIT_S)
        coordinator = connect_to_etcd("run", both)
        coordinator.read()
        proxy.answers_lost = True
        assert coordinator.write({"status": b"mine"}, absent=["status"])
        assert in_use(coordinator) == etcd.endpoint
