"""The watch on etcd loses nothing, and says so where it had to read everything again."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest
from etcds import LIMIT_S, Connecting, OwnEtcd, Proxy

from taskgraph.backends.coordinator import Deleted, Event, Put, Reachable, Resync, Unreachable
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_watch import Inbox
from taskgraph.errors import CoordinatorUnreachable, RunWiped, UsageError
from taskgraph.testing.contracts import collect

pytest_plugins = ["etcd_fixtures"]


@pytest.fixture
def connect(own_etcd: OwnEtcd):
    with Connecting(own_etcd.access) as connect:
        yield connect


@pytest.fixture
def claimed(connect: Callable[..., EtcdCoordinator]) -> EtcdCoordinator:
    coordinator = connect()
    coordinator.claim("run")
    return coordinator


def has(kind: type[Event]) -> Callable[[list[Event]], bool]:
    return lambda events: any(isinstance(event, kind) for event in events)


def has_put(key: str) -> Callable[[list[Event]], bool]:
    return lambda events: any(isinstance(event, Put) and event.key == key for event in events)


def test_no_event_is_lost_while_etcd_is_killed_and_started_again_and_again(own_etcd, connect, claimed):
    watcher = connect("run")
    watcher.news(LIMIT_S)
    enough = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not enough.is_set():
            claimed.write({f"k{len(written)}": b""})
            written.append(f"k{len(written)}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        events: list[Event] = []
        for _ in range(4):
            events += collect(watcher, has(Put), LIMIT_S)
            own_etcd.kill()
            events += collect(watcher, has(Unreachable), LIMIT_S)
            own_etcd.start()
            events += collect(watcher, has(Reachable), LIMIT_S)
    finally:
        enough.set()
        writer.join(LIMIT_S)
    claimed.write({"last": b""})
    events += collect(watcher, has_put("last"), LIMIT_S)
    seen = [event.key for event in events if isinstance(event, Put)]
    there = claimed.read()
    # A write that had no answer may have been made twice.
    assert list(dict.fromkeys(seen)) == [key for key in [*written, "last"] if key in there]
    assert len(there) > len(written) - 4, "etcd lost more than what was under way when it was killed"
    assert not has(Resync)(events)


def test_no_thread_of_grpc_is_there_for_the_end_of_the_interpreter_to_stop_with_a_lock_in_its_hands(connect, claimed):
    before = set(threading.enumerate())
    watcher = connect("run")
    watcher.news(LIMIT_S)
    assert watcher.renew(watcher.grant(30.0))
    claimed.write({"k": b""})
    collect(watcher, has_put("k"), LIMIT_S)
    (watch,) = set(threading.enumerate()) - before
    assert watch.name == "taskgraph-watch"
    watcher.close()
    assert not watch.is_alive()


def test_an_outage_is_told_once_and_so_is_its_end(own_etcd, connect, claimed):
    claimed.news(LIMIT_S)
    own_etcd.kill()
    (outage,) = collect(claimed, has(Unreachable), LIMIT_S)
    assert own_etcd.server.endpoint in outage.why
    assert list(claimed.news(1.5)) == []
    own_etcd.start()
    assert collect(claimed, has(Reachable), LIMIT_S) == [Reachable()]
    claimed.write({"a": b"1"})
    assert collect(claimed, has(Put), LIMIT_S) == [Put("a", b"1")]


def test_a_watch_that_begins_in_an_outage_begins_after_it(own_etcd, connect, claimed):
    own_etcd.kill()
    collect(claimed, has(Unreachable), LIMIT_S)
    own_etcd.start()
    events = collect(claimed, has(Resync), LIMIT_S)
    assert [type(event) for event in events] == [Reachable, Resync]


def test_what_was_compacted_meanwhile_is_read_again(own_etcd, connect, claimed):
    lease = claimed.grant(60)
    claimed.write({"old": b""}, lease=lease)
    claimed.news(LIMIT_S)
    claimed.write({"kept": b""})
    collect(claimed, has_put("kept"), LIMIT_S)  # so there is a stream to break
    stop_watching(claimed)
    writer = connect("run")
    writer.revoke(lease)
    writer.write({"new": b""})
    compact(writer)
    (event,) = collect(claimed, has(Resync), LIMIT_S)
    assert event.entries == {"run": b"run", "kept": b"", "new": b""}
    assert "compacted" in event.why
    writer.write({"later": b""})
    assert collect(claimed, has(Put), LIMIT_S) == [Put("later", b"")]


def stop_watching(coordinator: EtcdCoordinator) -> None:
    """Break the stream, and let the watch believe that it has seen nothing since the first revision."""
    watch = coordinator._watch
    assert watch is not None
    watch._revision = 1
    watch._stream.cancel()


def compact(coordinator: EtcdCoordinator) -> None:
    rpc, channel = coordinator._rpc, coordinator._channel
    revision = channel.call("KV.Range", rpc.RangeRequest(key=b"x")).message.header.revision
    channel.call("KV.Compact", rpc.CompactionRequest(revision=revision, physical=True))


def test_a_wiped_etcd_is_noticed_even_when_its_revisions_have_caught_up(own_etcd, connect, claimed):
    with closing(Proxy(own_etcd.server.endpoint)) as proxy:
        watcher = connect("run", replace(own_etcd.access, endpoints=(proxy.endpoint,)))
        claimed.write({"a": b""})
        watcher.news(LIMIT_S)
        proxy.requests_lost = True  # so the watcher sees nothing of the store until it has caught up
        own_etcd.kill()
        shutil.rmtree(own_etcd.directory / "data")
        own_etcd.start()
        other = connect()
        other.claim("another")
        for number in range(20):
            other.write({"n": str(number).encode()})
        proxy.cut()
        events = collect(watcher, has(Resync), LIMIT_S)
    (resync,) = [event for event in events if isinstance(event, Resync)]
    assert resync.entries == {"run": b"another", "n": b"19"}
    assert "the key run" in resync.why


def test_a_wipe_is_told_as_a_resync_without_the_run_and_ends_writing(own_etcd, connect, claimed):
    claimed.news(LIMIT_S)
    own_etcd.kill()
    collect(claimed, has(Unreachable), LIMIT_S)
    shutil.rmtree(own_etcd.directory / "data")
    own_etcd.start()
    resync = collect(claimed, has(Resync), LIMIT_S)[-1]
    assert isinstance(resync, Resync)
    assert resync.entries == {}
    with pytest.raises(RunWiped, match="lost its data"):
        claimed.write({"a": b""})


def test_an_etcd_that_was_put_back_to_an_older_state_is_noticed(own_etcd, connect, claimed):
    own_etcd.kill()
    shutil.copytree(own_etcd.directory / "data", own_etcd.directory / "copy")
    own_etcd.start()
    claimed.write({"a": b""})
    collect(claimed, has(Resync), LIMIT_S)
    own_etcd.kill()
    collect(claimed, has(Unreachable), LIMIT_S)
    shutil.rmtree(own_etcd.directory / "data")
    (own_etcd.directory / "copy").rename(own_etcd.directory / "data")
    own_etcd.start()
    (resync,) = [event for event in collect(claimed, has(Resync), LIMIT_S) if isinstance(event, Resync)]
    assert resync.entries == {"run": b"run"}
    assert "went back" in resync.why


def test_leases_survive_an_outage(own_etcd, connect, claimed):
    lease = claimed.grant(5)
    claimed.write({"hosts/n1": b""}, lease=lease)
    own_etcd.kill()
    own_etcd.start()
    assert claimed.renew(lease)
    assert "hosts/n1" in claimed.read()


def test_an_unreachable_etcd_is_named_with_the_time_waited(own_etcd, connect):
    own_etcd.kill()
    with pytest.raises(CoordinatorUnreachable, match=r"unreachable: tried 127\.0\.0\.1") as caught:
        connect(None, own_etcd.access.within(0.5)).read()
    assert caught.value.endpoints == (own_etcd.server.endpoint,)
    assert 0.3 < caught.value.waited_s < LIMIT_S
    assert "refused" in str(caught.value)


def test_closing_ends_an_operation_that_waits_for_etcd(own_etcd, connect):
    own_etcd.kill()
    coordinator = connect()
    errors: list[Exception] = []

    def read() -> None:
        try:
            coordinator.read()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    coordinator.close()
    thread.join(LIMIT_S / 2)
    assert not thread.is_alive()
    assert "closed" in str(errors[0])


def test_deletions_by_an_expired_lease_in_an_outage_are_told_after_it(own_etcd, connect, claimed):
    claimed.write({"hosts/n1": b""}, lease=claimed.grant(1))
    claimed.news(LIMIT_S)
    own_etcd.kill()
    own_etcd.start()
    events = collect(claimed, has(Deleted), LIMIT_S)
    assert Deleted("hosts/n1") in events


def test_what_came_before_a_failure_of_the_watch_is_told_first():
    inbox = Inbox()
    inbox.put(Put("a", b""))
    inbox.fail(UsageError("no"))
    assert inbox.take(LIMIT_S) == [Put("a", b"")]
    with pytest.raises(UsageError):
        inbox.take(LIMIT_S)
