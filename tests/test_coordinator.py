"""Each coordinator keeps the contract: the one on etcd, and the one in memory."""

from __future__ import annotations

import pytest

from taskgraph.backends.coordinator import Coordinator, Deleted, Put, Reachable, Resync, Unreachable
from taskgraph.errors import CoordinatorUnreachable, RunWiped
from taskgraph.testing.contracts import Connect, CoordinatorContract
from taskgraph.testing.memory import MemoryCoordinator, MemoryStore

pytest_plugins = ["etcd_fixtures"]


class TestEtcd(CoordinatorContract):
    @pytest.fixture
    def connect(self, connect_to_etcd: Connect) -> Connect:
        return connect_to_etcd


class TestMemory(CoordinatorContract):
    @pytest.fixture
    def connect(self) -> Connect:
        store = MemoryStore()
        return lambda run=None: MemoryCoordinator(store, run)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestMemoryStore:
    """What a test can do to a store in memory."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def store(self, clock: Clock) -> MemoryStore:
        return MemoryStore(clock)

    @pytest.fixture
    def coordinator(self, store: MemoryStore) -> Coordinator:
        coordinator = MemoryCoordinator(store)
        coordinator.claim("run")
        return coordinator

    def test_leases_end_by_the_clock_of_the_test(self, clock, store, coordinator):
        coordinator.news(0)
        lease = coordinator.grant(2.5)
        coordinator.write({"hosts/n1": b""}, lease=lease)
        clock.now = 2.9
        assert coordinator.renew(lease)
        clock.now = 5.8
        assert coordinator.news(0) == [Put("hosts/n1", b"")]
        clock.now = 5.9
        store.tick()
        assert coordinator.news(0) == [Deleted("hosts/n1")]
        assert not coordinator.renew(lease)

    def test_an_outage_is_told_once_and_refuses_work(self, store, coordinator):
        coordinator.news(0)
        store.stop()
        store.stop()
        with pytest.raises(CoordinatorUnreachable):
            coordinator.write({"a": b""})
        assert [type(event) for event in coordinator.news(0)] == [Unreachable]
        store.start()
        assert coordinator.news(0) == [Reachable()]

    def test_leases_survive_an_outage_with_their_full_time(self, clock, store, coordinator):
        coordinator.write({"hosts/n1": b""}, lease=coordinator.grant(3))
        store.stop()
        clock.now = 100
        store.start()
        clock.now = 102.9
        assert "hosts/n1" in coordinator.read()
        clock.now = 103
        assert "hosts/n1" not in coordinator.read()

    def test_a_watch_that_begins_in_an_outage_reads_everything_after_it(self, store, coordinator):
        store.stop()
        assert [type(event) for event in coordinator.news(0)] == [Unreachable]
        store.start()
        assert [type(event) for event in coordinator.news(0)] == [Reachable, Resync]

    def test_a_wipe_is_told_as_a_resync_without_the_run(self, store, coordinator):
        coordinator.news(0)
        store.wipe()
        assert coordinator.news(0) == [Resync({}, "the store was wiped")]
        with pytest.raises(RunWiped):
            coordinator.write({"a": b""})

    def test_compaction_is_told_as_a_resync(self, store, coordinator):
        coordinator.news(0)
        store.compact()
        assert coordinator.news(0) == [Resync({"run": b"run"}, "the history was compacted")]
