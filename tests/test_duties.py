"""What a unit does from time to time: it registers, says how far the job is, keeps its host alive."""

from __future__ import annotations

import json

import pytest
from sidecar_bench import ME, RUN, Bench

from taskgraph.plan.lifecycle import Unit
from taskgraph.run.unit.duties import HostLease, Progress, Registration, Show
from taskgraph.testing.memory import MemoryCoordinator


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_rank_is_registered_with_host_and_process(bench: Bench) -> None:
    unit = Unit(run=RUN, host="n1", rank=5)
    bench.sidecar(5, duties=[Registration(unit, ME)])
    assert json.loads(bench.main.read()["ranks/5"]) == {"host": "n1", "pid": 4711, "start": 99}


def test_progress_is_written_by_the_root_at_most_once_a_second(bench: Bench) -> None:
    reached, written = [0], []
    sidecar = bench.sidecar(0, duties=[Progress(lambda: reached[-1])])
    for epoch in range(1, 41):
        reached.append(epoch)
        bench.pass_time(0.1)
        sidecar.turn(0)
        value = bench.read("progress")
        if value is not None and value not in written:
            written.append(value)
    assert 3 <= len(written) <= 5


def test_the_last_progress_is_written_at_the_close(bench: Bench) -> None:
    reached = [0]
    sidecar = bench.sidecar(0, duties=[Progress(lambda: reached[-1])])
    for epoch in (1, 2):
        reached.append(epoch)
        sidecar.turn(0)
    sidecar.close()
    assert json.loads(bench.main.read()["progress"]) == {"epoch": 2}


def test_no_other_rank_writes_progress(bench: Bench) -> None:
    sidecar = bench.sidecar(1, duties=[Progress(lambda: None)])
    sidecar.turn(0)
    sidecar.close()
    assert bench.read("progress") is None


def test_a_person_is_shown_how_far_the_job_is_by_the_rank_that_is_its_root(bench: Bench) -> None:
    shown, reached = [], [None]
    sidecar = bench.sidecar(0, duties=[Show(lambda: reached[-1], shown.append)])
    bench.pass_time(2)
    sidecar.turn(0)
    assert shown == []
    reached.append(7)
    for _ in range(30):
        bench.pass_time(0.1)
        sidecar.turn(0)
    assert set(shown) == {7}
    assert 15 <= len(shown) <= 30


def test_a_host_is_there_as_long_as_its_lease_is_renewed_and_gone_at_the_close(bench: Bench) -> None:
    keeper = bench.sidecar(None, duties=[HostLease("n1", ME, 3.0)])
    keeper.turn(0)
    for _ in range(30):
        bench.pass_time(0.5)
        keeper.turn(0)
        assert bench.read("hosts/n1") is not None
    keeper.close()
    assert bench.read("hosts/n1") is None


def test_a_host_whose_lease_expired_comes_back(bench: Bench) -> None:
    keeper = bench.sidecar(None, duties=[HostLease("n1", ME, 3.0)])
    keeper.turn(0)
    bench.pass_time(10)
    assert bench.read("hosts/n1") is None
    keeper.turn(0)
    assert bench.read("hosts/n1") is not None


def test_a_lease_that_ends_before_it_is_used_is_asked_for_again(bench: Bench) -> None:
    lease = HostLease("n1", ME, 3.0)
    coordinator = MemoryCoordinator(bench.store, RUN)
    grant = coordinator.grant

    def grant_then_sleep(ttl_s: float) -> int:
        granted = grant(ttl_s)
        bench.pass_time(10)
        coordinator.grant = grant  # type: ignore[method-assign]
        return granted

    coordinator.grant = grant_then_sleep  # type: ignore[method-assign]
    assert lease.turn(coordinator, bench.clock()) < 1
    assert bench.read("hosts/n1") is None
    assert lease.turn(coordinator, bench.clock()) == 1
    assert bench.read("hosts/n1") is not None


def test_a_unit_knows_which_hosts_hold_their_lease(bench: Bench) -> None:
    sidecar = bench.sidecar()
    first = bench.main.grant(3.0)
    bench.main.write({"hosts/n2": b"{}"}, lease=first)
    sidecar.turn(0)
    assert sidecar.hosts == frozenset({"n2"})
    bench.main.revoke(first)
    sidecar.turn(0)
    assert sidecar.hosts == frozenset()
