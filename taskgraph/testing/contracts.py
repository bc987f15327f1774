"""What every coordinator does, as tests: subclass the class for a backend of your own and run it with pytest.

A limit in here is generous on purpose: it is for a machine that is busy, and nobody waits for it to pass.
"""

# ruff: noqa: D102 -- the name of a test says it

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import pytest

from taskgraph.backends.coordinator import Coordinator, Deleted, Event, Put, Resync
from taskgraph.errors import CoordinatorError, RunReplaced, RunWiped, UsageError

LIMIT_S = 20.0

Connect = Callable[..., Coordinator]
"""``connect(run=None)``: another coordinator of the same job, on a store that is empty at the beginning of the test."""


def collect(coordinator: Coordinator, until: Callable[[list[Event]], bool], limit_s: float = LIMIT_S) -> list[Event]:
    """Gather news until they satisfy `until`; fail with what there was where they do not."""
    events: list[Event] = []
    deadline = time.monotonic() + limit_s
    while not until(events):
        left = deadline - time.monotonic()
        assert left > 0, f"after {limit_s} s there were only {events}"
        events += coordinator.news(left)
    return events


class CoordinatorContract(ABC):
    """The behavior of a `taskgraph.backends.coordinator.Coordinator`."""

    @pytest.fixture
    @abstractmethod
    def connect(self) -> Iterator[Connect]:
        """Yield a function that makes coordinators of one new job; close them all afterwards."""

    @pytest.fixture
    def claimed(self, connect: Connect) -> Coordinator:
        """Make a coordinator that has claimed the job for run "first"."""
        coordinator = connect()
        coordinator.claim("first")
        return coordinator

    # Reading and writing.

    def test_what_is_written_is_read(self, claimed: Coordinator) -> None:
        assert claimed.write({"a": b"1", "b/c": b"\x00\xff"})
        assert claimed.read() == {"run": b"first", "a": b"1", "b/c": b"\x00\xff"}

    def test_a_prefix_selects_the_keys_that_begin_with_it(self, claimed: Coordinator) -> None:
        claimed.write({"ranks/1": b"1", "ranks/10": b"10", "ranks": b"none", "rankt": b"none"})
        assert claimed.read("ranks/") == {"ranks/1": b"1", "ranks/10": b"10"}

    def test_what_is_absent_is_created_once_and_keeps_its_first_value(self, claimed: Coordinator) -> None:
        assert claimed.write({"status": b"mine"}, absent=["status"])
        assert not claimed.write({"status": b"yours"}, absent=["status"])
        assert claimed.read("status") == {"status": b"mine"}

    def test_creating_the_same_value_again_is_no_success(self, claimed: Coordinator) -> None:
        assert claimed.write({"status": b"same"}, absent=["status"])
        assert not claimed.write({"status": b"same"}, absent=["status"])

    def test_one_key_that_exists_keeps_all_from_being_written(self, claimed: Coordinator) -> None:
        claimed.write({"dead/1": b""})
        assert not claimed.write({"dead/1": b"x", "dead/2": b"x", "other": b"x"}, absent=["dead/1", "dead/2"])
        assert claimed.read() == {"run": b"first", "dead/1": b""}

    def test_a_condition_may_be_on_a_key_that_is_not_written(self, claimed: Coordinator) -> None:
        assert claimed.write({"a": b"1"}, absent=["closed"])
        claimed.write({"closed": b""})
        assert not claimed.write({"a": b"2"}, absent=["closed"])
        assert claimed.read("a") == {"a": b"1"}

    def test_of_many_that_create_a_key_at_once_one_succeeds(self, connect: Connect, claimed: Coordinator) -> None:
        others = [connect("first") for _ in range(4)]
        won: list[int] = []

        def create(number: int) -> None:
            if others[number].write({"decision": str(number).encode()}, absent=["decision"]):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert [str(number).encode() for number in won] == [claimed.read()["decision"]]

    def test_hundreds_of_keys_are_written_in_one_transaction(self, claimed: Coordinator) -> None:
        entries = {f"dead/{rank}": str(rank).encode() for rank in range(700)}
        assert claimed.write(entries, absent=["dead/0", "closed"])
        assert claimed.read("dead/") == entries
        assert not claimed.write(dict.fromkeys(entries, b""), absent=["dead/0"])
        assert claimed.read("dead/") == entries

    # The run.

    def test_a_claim_removes_what_the_run_before_has_left(self, claimed: Coordinator, connect: Connect) -> None:
        claimed.write({"a": b"", "status": b"", "zzz": b""})
        connect().claim("second")
        assert claimed.read() == {"run": b"second"}

    def test_claiming_again_for_the_same_run_changes_nothing(self, claimed: Coordinator, connect: Connect) -> None:
        claimed.write({"hosts/n1": b""})
        connect().claim("first")
        assert claimed.read() == {"run": b"first", "hosts/n1": b""}

    def test_a_claim_is_refused_while_a_host_of_another_run_lives(self, claimed: Coordinator, connect: Connect) -> None:
        lease = claimed.grant(60)
        claimed.write({"hosts/n1": b""}, lease=lease)
        with pytest.raises(UsageError, match=r"alive on n1.*another name"):
            connect().claim("second")
        assert claimed.read() == {"run": b"first", "hosts/n1": b""}
        claimed.revoke(lease)
        connect().claim("second")
        assert claimed.read() == {"run": b"second"}

    def test_a_run_that_was_replaced_writes_nothing(self, claimed: Coordinator, connect: Connect) -> None:
        second = connect()
        second.claim("second")
        second.write({"kept": b""})
        with pytest.raises(RunReplaced, match="second"):
            claimed.write({"a": b"1"})
        with pytest.raises(RunReplaced):
            claimed.write({"a": b"1"}, absent=["a"])
        assert claimed.remove_run()  # nothing of it is left
        assert second.read() == {"run": b"second", "kept": b""}

    def test_a_run_whose_keys_are_gone_writes_nothing(self, claimed: Coordinator, connect: Connect) -> None:
        connect("first").remove_run()
        with pytest.raises(RunWiped, match="gone"):
            claimed.write({"a": b"1"})
        assert claimed.read() == {}
        claimed.remove_run()

    def test_the_keys_of_a_run_stay_as_long_as_a_host_of_it_lives(self, claimed: Coordinator) -> None:
        lease = claimed.grant(60)
        assert claimed.write({"hosts/n1": b"", "ranks/0": b""}, lease=lease)
        assert not claimed.remove_run()
        assert "run" in claimed.read()
        claimed.revoke(lease)
        assert claimed.remove_run()
        assert claimed.read() == {}

    def test_another_process_may_join_a_run_by_naming_it(self, claimed: Coordinator, connect: Connect) -> None:
        assert connect("first").write({"ranks/1": b""})
        assert "ranks/1" in claimed.read()

    def test_writing_without_a_run_is_a_mistake(self, connect: Connect) -> None:
        with pytest.raises(UsageError, match="has no run"):
            connect().write({"a": b""})

    # Leases.

    def test_a_lease_that_nobody_renews_ends_and_its_keys_are_told_deleted(self, claimed: Coordinator) -> None:
        claimed.news(LIMIT_S)
        claimed.write({"hosts/n1": b"", "hosts/n2": b""}, lease=claimed.grant(1))
        events = collect(claimed, lambda events: sum(isinstance(event, Deleted) for event in events) == 2)
        assert {event.key for event in events if isinstance(event, Deleted)} == {"hosts/n1", "hosts/n2"}
        assert claimed.read("hosts/") == {}

    def test_a_lease_can_be_renewed_until_it_is_revoked(self, claimed: Coordinator) -> None:
        lease = claimed.grant(60)
        claimed.write({"hosts/n1": b""}, lease=lease)
        assert claimed.renew(lease)
        claimed.revoke(lease)
        assert not claimed.renew(lease)
        assert claimed.read("hosts/") == {}
        claimed.revoke(lease)

    def test_a_write_under_a_lease_that_has_ended_is_refused(self, claimed: Coordinator) -> None:
        lease = claimed.grant(60)
        claimed.revoke(lease)
        with pytest.raises(CoordinatorError, match="lease"):
            claimed.write({"hosts/n1": b""}, lease=lease)
        assert claimed.read("hosts/") == {}

    def test_a_key_written_anew_without_the_lease_outlives_it(self, claimed: Coordinator) -> None:
        lease = claimed.grant(60)
        claimed.write({"a": b"1"}, lease=lease)
        claimed.write({"a": b"2"})
        claimed.revoke(lease)
        assert claimed.read("a") == {"a": b"2"}

    # The watch.

    def test_the_first_news_are_all_there_is(self, claimed: Coordinator, connect: Connect) -> None:
        claimed.write({"a": b"1"})
        (event,) = connect().news(LIMIT_S)
        assert isinstance(event, Resync)
        assert event.entries == {"run": b"first", "a": b"1"}

    def test_news_are_told_in_the_order_of_the_writes(self, claimed: Coordinator, connect: Connect) -> None:
        watcher = connect()
        watcher.news(LIMIT_S)
        expected: list[Event] = []
        for number in range(200):
            claimed.write({f"k{number % 7}": str(number).encode(), "n": b""})
            expected += [Put(f"k{number % 7}", str(number).encode()), Put("n", b"")]
            if number % 5 == 0:
                lease = claimed.grant(60)
                claimed.write({"leased": b""}, lease=lease)
                claimed.revoke(lease)
                expected += [Put("leased", b""), Deleted("leased")]
        assert collect(watcher, lambda events: len(events) >= len(expected)) == expected

    def test_a_watcher_hears_its_own_writes_too(self, claimed: Coordinator) -> None:
        claimed.news(LIMIT_S)
        claimed.write({"a": b"1"})
        assert collect(claimed, lambda events: len(events) >= 1) == [Put("a", b"1")]

    def test_a_watcher_hears_that_another_run_has_taken_over(self, claimed: Coordinator, connect: Connect) -> None:
        claimed.write({"a": b"1"})
        claimed.news(LIMIT_S)
        connect().claim("second")
        events = collect(claimed, lambda events: Put("run", b"second") in events)
        assert events == [Deleted("a"), Put("run", b"second")]

    def test_without_news_the_wait_ends_at_its_limit(self, claimed: Coordinator) -> None:
        claimed.news(LIMIT_S)
        assert list(claimed.news(0.01)) == []
        assert list(claimed.news(0)) == []

    def test_waking_ends_a_wait(self, claimed: Coordinator) -> None:
        claimed.news(LIMIT_S)
        timer = threading.Timer(0.05, claimed.wake)
        timer.start()
        assert list(claimed.news(10 * LIMIT_S)) == []
        timer.join(LIMIT_S)

    def test_waking_when_nobody_waits_is_not_lost(self, claimed: Coordinator) -> None:
        claimed.news(LIMIT_S)
        claimed.wake()
        assert list(claimed.news(10 * LIMIT_S)) == []

    def test_closing_twice_is_fine_and_a_closed_one_refuses_work(self, claimed: Coordinator) -> None:
        claimed.news(LIMIT_S)
        claimed.close()
        claimed.close()
        with pytest.raises(CoordinatorError, match="closed"):
            claimed.write({"a": b""})
        with pytest.raises(CoordinatorError, match="closed"):
            claimed.news(LIMIT_S)
