"""One unit: what it writes, what it hears, and that nothing it meets is silent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sidecar_bench import BROKEN, DONE, LIMIT_S, ME, RUN, Bench

from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.words import OVER, AbortWords
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, GraphError
from taskgraph.ids import ChannelId
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import Unit
from taskgraph.run.unit.duties import HostLease, Progress, Registration
from taskgraph.run.unit.sidecar import Sidecar
from taskgraph.testing.memory import MemoryCoordinator


@pytest.fixture
def bench() -> Bench:
    return Bench()


# Ending the job.


def test_whoever_ends_the_job_first_wins_and_all_hear_the_same(bench: Bench) -> None:
    first, second = bench.sidecar(0), bench.sidecar(1)
    answers = [first.ask_end(BROKEN), second.ask_end(DONE)]
    first.turn(0)
    second.turn(0)
    assert [answer.result(0) for answer in answers] == [True, False]
    assert [ends.all for ends in bench.ends] == [[BROKEN], [BROKEN]]
    assert bench.read("status") == BROKEN.encode()


def test_an_ending_from_elsewhere_is_delivered_once(bench: Bench) -> None:
    sidecar = bench.sidecar()
    bench.main.write({"status": DONE.encode()})
    bench.main.write({"status": BROKEN.encode()})
    bench.store.compact()
    sidecar.turn(0)
    sidecar.turn(0)
    assert bench.ends[0].all == [DONE]
    assert sidecar.over


def test_who_asks_for_an_end_after_the_end_is_told_at_once(bench: Bench) -> None:
    sidecar = bench.sidecar()
    bench.main.write({"status": DONE.encode()})
    sidecar.turn(0)
    answer = sidecar.ask_end(BROKEN)
    sidecar.turn(0)
    assert answer.result(0) is False


def test_the_ending_is_known_before_the_abort_words_are_set(bench: Bench, tmp_path: Path) -> None:
    words = AbortWords.create(tmp_path / "words", 2)
    seen: list[int] = []
    sidecar = bench.sidecar(words=words)
    sidecar._end._on_end = lambda ending: seen.append(words.get(1))
    bench.main.write({"status": BROKEN.encode()})
    sidecar.turn(0)
    assert seen == [0]
    assert [words.get(0), words.get(1)] == [OVER, OVER]


def test_a_status_that_cannot_be_read_is_a_failure(bench: Bench) -> None:
    sidecar = bench.sidecar()
    bench.main.write({"status": b"[]"})
    sidecar.turn(0)
    assert bench.ends[0].all[0].status != 0
    assert "cannot be read" in bench.ends[0].all[0].message


def test_an_end_asked_for_in_an_outage_is_written_after_it(bench: Bench) -> None:
    sidecar = bench.sidecar()
    bench.store.stop()
    sidecar.turn(0)
    answer = sidecar.ask_end(BROKEN)
    sidecar.turn(0)
    assert not answer.done()
    bench.store.start()
    sidecar.turn(0)
    sidecar.turn(0)
    assert answer.result(0) is True
    assert bench.read("status") == BROKEN.encode()


def test_a_write_that_was_carried_out_without_an_answer_still_counts_as_ours(bench: Bench) -> None:
    sidecar = bench.sidecar()
    real = sidecar._coordinator.write

    def write_then_lose_the_answer(*args: Any, **options: Any) -> bool:
        real(*args, **options)
        sidecar._coordinator.write = real
        raise CoordinatorUnreachable(("memory",), 2.0, "no answer")

    sidecar._coordinator.write = write_then_lose_the_answer
    answer = sidecar.ask_end(BROKEN)
    sidecar.turn(0)
    sidecar.turn(0)
    assert answer.result(0) is True
    assert bench.ends[0].all == [BROKEN]


# Outages, and what becomes of the run.


def test_an_outage_is_logged_once_and_ends_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sidecar = bench.sidecar(duties=[Registration(Unit(run=RUN, host="n1", rank=0), ME)])
    bench.store.stop()
    for _ in range(5):
        bench.pass_time(1)
        sidecar.turn(0)
    bench.store.start()
    sidecar.turn(0)
    assert [record.levelname for record in caplog.records if "etcd is" in record.message] == ["WARNING", "WARNING"]
    assert bench.ends[0].all == []
    assert not sidecar.over


def test_a_wiped_etcd_does_not_end_a_job_that_lacks_nothing(bench: Bench) -> None:
    sidecar = bench.sidecar()
    bench.store.wipe()
    sidecar.turn(0)
    sidecar.turn(0)
    assert bench.ends[0].all == []


def test_a_run_that_was_replaced_ends_and_says_by_which(bench: Bench) -> None:
    sidecar = bench.sidecar()
    MemoryCoordinator(bench.store).claim("another run")
    sidecar.turn(0)
    assert "another run" in bench.ends[0].all[0].message


def test_a_write_that_finds_another_run_ends_the_job_too(bench: Bench) -> None:
    epochs = [2]
    sidecar = bench.sidecar(duties=[Progress(lambda: epochs[-1])])
    bench.pass_time(5)
    sidecar.turn(0)
    bench.store._entries["run"].value = b"another run"  # as if the watch were late
    epochs.append(3)
    bench.pass_time(1)
    sidecar.turn(0)
    assert "another run" in bench.ends[0].all[0].message


def test_keys_that_go_after_the_end_change_nothing(bench: Bench) -> None:
    sidecar = bench.sidecar()
    bench.main.write({"status": DONE.encode()})
    bench.main.remove_run()
    sidecar.turn(0)
    sidecar.turn(0)
    assert bench.ends[0].all == [DONE]


def test_a_keeper_waits_until_its_run_has_claimed_the_name() -> None:
    bench = Bench()
    bench.main.claim("a run before")
    bench.main.write({"status": BROKEN.encode()})
    keeper = bench.sidecar(None, duties=[HostLease("n1", ME, 3.0)])
    assert bench.read("hosts/n1") is None
    assert bench.ends[0].all == []
    MemoryCoordinator(bench.store).claim(RUN)
    keeper.turn(0)
    keeper.turn(0)
    assert json.loads(bench.main.read()["hosts/n1"]) == {"pid": 4711, "start": 99}
    assert bench.ends[0].all == []
    bench.main = MemoryCoordinator(bench.store, RUN)
    bench.main.write({"status": DONE.encode()})
    keeper.turn(0)
    assert bench.ends[0].all == [DONE]


# Work that is handed over, and failures, which are never silent.


def test_calls_are_made_by_the_sidecar_in_order(bench: Bench) -> None:
    sidecar = bench.sidecar()
    made: list[int] = []
    for number in range(3):
        sidecar.call(partial(made.append, number))
    assert made == []
    sidecar.turn(0)
    assert made == [0, 1, 2]


def test_calls_that_were_handed_over_before_the_close_are_still_made(bench: Bench) -> None:
    sidecar = bench.sidecar()
    made: list[int] = []
    sidecar.call(partial(made.append, 1))
    sidecar.close()
    assert made == [1]


def test_a_graph_error_in_a_call_ends_the_job_with_what_it_names(bench: Bench) -> None:
    sidecar, other = bench.sidecar(0), bench.sidecar(1)

    def check() -> None:
        raise GraphError("nobody receives it", task=3, epoch=7, channel=ChannelId(3, 4, "w"))

    sidecar.call(check)
    sidecar.turn(0)
    other.turn(0)
    expected = Ending(status=1, message="nobody receives it", task=3, epoch=7, channel="3 -> 4 'w'")
    assert [ends.all for ends in bench.ends] == [[expected], [expected]]
    assert bench.printed == [expected]


def test_a_failed_call_after_the_end_is_nobodys_to_print(bench: Bench) -> None:
    sidecar = bench.sidecar()
    bench.main.write({"status": BROKEN.encode()})
    sidecar.turn(0)
    sidecar.call(lambda: [][0])
    sidecar.turn(0)
    assert bench.printed == []


class Broken:
    """A duty with a fault."""

    needs_etcd = False

    def turn(self, coordinator: Coordinator, now: float) -> float:
        raise ZeroDivisionError("a fault of ours")

    def finish(self, coordinator: Coordinator) -> None:
        raise ZeroDivisionError("another one")


@pytest.mark.parametrize("etcd", ["there", "away"])
def test_a_fault_in_the_thread_ends_the_job_with_its_traceback(bench: Bench, etcd: str) -> None:
    sidecar = bench.sidecar(2, duties=[Broken()], turned=False)
    if etcd == "away":
        bench.store.stop()
    sidecar.start()
    assert bench.ends[0].come.wait(LIMIT_S)
    sidecar.close()
    (ending,) = bench.ends[0].all
    assert ending.status != 0
    assert ending.rank == 2
    assert "a fault of ours" in ending.message
    assert "Traceback" in ending.details
    assert bench.printed == [ending]
    if etcd == "there":
        assert Ending.decode(bench.main.read()["status"]) == ending


def test_whoever_asks_a_sidecar_that_failed_for_an_end_is_not_kept_waiting(bench: Bench) -> None:
    sidecar = bench.sidecar(duties=[Broken()], turned=False)
    sidecar.start()
    assert bench.ends[0].come.wait(LIMIT_S)
    assert sidecar.ask_end(DONE).result(LIMIT_S) is False
    sidecar.close()


# The thread.


@pytest.fixture
def running(bench: Bench) -> Iterator[Sidecar]:
    sidecar = bench.sidecar()
    sidecar.start()
    yield sidecar
    sidecar.close()


def test_an_end_from_the_main_thread_returns_when_it_is_written_and_delivered(bench: Bench, running: Sidecar) -> None:
    assert running.ask_end(BROKEN).result(LIMIT_S) is True
    assert bench.ends[0].all == [BROKEN]
    assert running.ask_end(DONE).result(LIMIT_S) is False


def test_a_close_leaves_no_thread_and_refuses_what_was_not_written(bench: Bench, running: Sidecar) -> None:
    bench.store.stop()
    answer = running.ask_end(BROKEN)
    running.close()
    running.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "taskgraph-sidecar"]
    with pytest.raises(CoordinatorError, match="closed"):
        answer.result(0)
    with pytest.raises(CoordinatorError, match="closed"):
        running.ask_end(BROKEN).result(LIMIT_S)


def test_the_thread_hears_of_the_end_by_itself(bench: Bench, running: Sidecar) -> None:
    bench.main.write({"status": DONE.encode()})
    assert bench.ends[0].come.wait(LIMIT_S)
