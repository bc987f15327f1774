"""What a supervisor does when a launcher has ended, and where a job that is launched again goes on."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import PAUSED, Ending
from taskgraph.plan.holdings import NOTHING_KNOWN, Held, Known
from taskgraph.plan.layout import assign
from taskgraph.plan.lineage import is_valid
from taskgraph.plan.relaunch import (
    GENERATIONS,
    Attempt,
    Done,
    GiveUp,
    Relaunch,
    Wish,
    after,
    failures_before,
    first_generation,
    is_successor,
    run_of,
)
from taskgraph.plan.revival import Inherited, Lost, revive


def attempt(**fields) -> Attempt:
    return Attempt(**{"status": -9, "reached": True, **fields})


# ---- after a launcher has ended ----


@given(st.integers(-64, 255), st.integers(0, 255))
def test_what_the_framework_said_counts_and_not_the_status_of_the_launcher(status, said):
    assert after([attempt(status=status, ending=Ending(status=said))], 5) == Done(said)


@pytest.mark.parametrize("status", [0, 1, 137, -9])
def test_a_job_that_is_not_over_is_launched_again_whatever_the_status(status):
    assert isinstance(after([attempt(status=status, boundary=4)], 5), Relaunch)


@pytest.mark.parametrize(
    ("status", "verdict"), [(0, Done), (7, GiveUp), (213, GiveUp), (137, Relaunch), (-9, Relaunch)]
)
def test_a_program_that_ends_by_itself_before_its_job_starts_would_do_so_again(status, verdict):
    assert isinstance(after([attempt(status=status, reached=False)], 5), verdict)


@pytest.mark.parametrize(
    ("status", "first", "verdict"),
    [
        (1, {}, GiveUp),
        (213, {}, GiveUp),
        (0, {}, Relaunch),  # a launcher says so of the loss of a daemon
        (137, {}, Relaunch),
        (-9, {}, Relaunch),
        (1, {"met": True}, Relaunch),
        (1, {"boundary": 4}, Relaunch),
    ],
)
def test_a_rank_that_ends_by_itself_while_others_start_would_do_so_again_unless_they_had_met_before(
    status, first, verdict
):
    attempts = [attempt(**first)] * bool(first) + [attempt(status=status)]
    assert isinstance(after(attempts, 5), verdict)


@given(st.integers(-64, 255), st.booleans(), st.booleans(), st.one_of(st.none(), st.integers(0, 9)))
def test_who_interrupts_a_job_does_not_want_it_launched_again(status, reached, met, boundary):
    last = attempt(status=status, reached=reached, met=met, boundary=boundary, interrupted=15)
    assert after([last], 5) == GiveUp(143, "ended by signal 15")
    assert after([attempt(boundary=4), last], 5) == GiveUp(143, "ended by signal 15")


def test_who_interrupts_a_job_that_then_pauses_is_told_that_it_did():
    paused = Ending(status=PAUSED, message="rank 0 was told to end the job")
    assert after([attempt(interrupted=15, met=True, ending=paused)], 5) == Done(PAUSED, paused.describe())


USR1, TERM, HUP, INT = signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT


@pytest.mark.parametrize(
    ("signals", "wish", "ends_unless_it_pauses", "ends_whatever"),
    [
        ([], Wish(), False, False),
        ([USR1], Wish(pause=USR1), False, False),
        ([USR1, USR1], Wish(pause=USR1), False, False),
        ([TERM], Wish(pause=TERM, end=TERM), True, False),
        ([HUP], Wish(pause=HUP, end=HUP), True, False),
        ([TERM, USR1], Wish(pause=TERM, end=TERM), True, False),
        ([INT], Wish(end=INT, at_once=True), True, True),
        ([USR1, TERM], Wish(pause=USR1, end=TERM, at_once=True), True, True),
        ([TERM, TERM], Wish(pause=TERM, end=TERM, at_once=True), True, True),
        ([TERM, INT], Wish(pause=TERM, end=INT, at_once=True), True, True),
    ],
)
def test_the_first_signal_lets_a_job_pause_that_can_and_a_second_ends_it(
    signals, wish, ends_unless_it_pauses, ends_whatever
):
    assert Wish.of(signals) == wish
    assert wish.ends(pausing=False) == ends_unless_it_pauses
    assert wish.ends(pausing=True) == ends_whatever


@pytest.mark.parametrize(
    ("boundaries", "verdict"),
    [
        ([0, 0, 0], Relaunch),
        ([0, 0, 0, 0], GiveUp),
        ([0, None, None, None], GiveUp),
        ([None, 0, 0, 0, 0], GiveUp),
        ([0, 0, 0, 5], Relaunch),
        ([0, 5, 4, 5, 5], GiveUp),
        ([0, 5, 4, 5, 6], Relaunch),
        ([5, 4, 3, 2], GiveUp),
    ],
)
def test_three_relaunches_that_come_no_further_are_enough(boundaries, verdict):
    assert isinstance(after([attempt(boundary=boundary) for boundary in boundaries], 100), verdict)


@given(st.integers(0, 20), st.integers(1, 40))
def test_there_are_never_more_relaunches_than_the_limit(limit, launches):
    attempts = [attempt(boundary=n) for n in range(launches)]
    assert isinstance(after(attempts, limit), Relaunch) == (launches <= limit)


@given(st.lists(st.one_of(st.none(), st.integers(0, 10)), min_size=1, max_size=30))
def test_a_job_that_is_given_up_is_told_why_and_never_a_success(boundaries):
    verdict = after([attempt(boundary=boundary, status=0) for boundary in boundaries], 10)
    if isinstance(verdict, GiveUp):
        assert verdict.status != 0
        assert verdict.why


@given(st.integers(0, 4095), st.integers(0, 4095), st.integers(0, GENERATIONS - 1))
def test_no_generation_ever_returns_and_all_fit_the_wire(one, other, failures):
    generation = first_generation(one) + failures
    assert generation < 2**32
    assert failures_before(generation) == failures
    assert (first_generation(other) > generation) == (other > one)


def test_attempts_of_one_run_follow_each_other_and_no_other():
    assert is_successor(run_of(1, "0" * 13), of=run_of(0, "0" * 13))
    assert not is_successor(run_of(1, "0" * 13), of=run_of(0, "0" * 12 + "1"))


# ---- where it goes on ----

HOSTS = {0: "a", 1: "b", 2: "c"}
A = first_generation(1)


def inherit(*slots: tuple[int, int, int], known: Known = NOTHING_KNOWN, history=((0, 0),)) -> Inherited:
    """Return what a host has: task, boundary, generation of each snapshot."""
    held = tuple(Held(*slot) for slot in slots)
    return Inherited(held, known, max((slot.generation for slot in held), default=-1), tuple(history))


def again(inherited, *, host_of=None, tasks=3, had_begun=True, number=1, **options):
    host_of = HOSTS if host_of is None else host_of
    layout = assign(tasks, list(host_of.values()), 0, "buddy")
    fixed = {"backups": 0, "placement": "buddy", **options}
    return revive(number, host_of, layout, inherited, had_begun=had_begun, **fixed)


def each_its_own(boundary: int, known: Known = NOTHING_KNOWN) -> dict[str, Inherited]:
    return {host: inherit((task, boundary, 0), known=known) for task, host in enumerate("abc")}


def test_a_job_goes_on_at_the_newest_boundary_that_every_task_has():
    committed = Known(0, 7, 7)
    held = {
        "a": inherit((0, 7, 0), (0, 8, 0), known=committed),
        "b": inherit((1, 7, 0), (1, 8, 0)),
        "c": inherit((2, 7, 0)),
    }
    decision = again(held)
    assert isinstance(decision, Decision)
    assert (decision.generation, decision.boundary, decision.safe, decision.delivered) == (A, 7, 7, 7)
    assert decision.rebuild == ()
    assert decision.holders == tuple(map(frozenset, "abc"))
    assert not decision.undoes


def test_a_task_runs_where_its_snapshot_lies_also_with_fewer_ranks():
    held = {"a": inherit((2, 5, 0), (0, 5, 0)), "c": inherit((1, 5, 0))}
    decision = again(held, host_of={0: "a", 1: "a", 2: "c"})
    assert isinstance(decision, Decision)
    where = [decision.host_of[decision.layout.primary(task)] for task in range(3)]
    assert where == ["a", "c", "a"]


def test_a_snapshot_of_a_history_that_was_given_up_does_not_count():
    history = ((0, 0), (1, 5))  # generation 1 resumed at 5, so 6 of generation 0 is no more
    held = {
        "a": inherit((0, 5, 0), (0, 6, 1), history=history),
        "b": inherit((1, 5, 0), (1, 6, 0)),
        "c": inherit((2, 5, 0), (2, 6, 0)),
    }
    decision = again(held)
    assert isinstance(decision, Decision)
    assert decision.boundary == 5
    assert decision.history == {0: 0, 1: 5, A: 5}
    assert not is_valid(6, 0, decision.history)


def test_a_job_that_has_committed_nothing_starts_anew_and_keeps_what_it_has():
    decision = again({"b": inherit((1, 0, 0))})
    assert isinstance(decision, Decision)
    assert (decision.boundary, decision.rebuild) == (0, (0, 2))


def test_where_a_host_is_gone_that_alone_held_a_task_there_is_no_way_back():
    held = each_its_own(7, Known(0, 7, 7))
    del held["b"]
    assert isinstance(again(held, host_of={0: "a", 1: "a", 2: "c"}), Lost)


def test_with_a_checkpoint_there_is_one():
    held = each_its_own(7, Known(0, 7, 7))
    del held["b"]
    assert again(held, host_of={0: "a", 1: "a", 2: "c"}, checkpoint=4) is None


@pytest.mark.parametrize(("checkpoint", "boundary"), [(6, 7), (7, 7), (8, None)])
def test_the_newer_of_memory_and_checkpoint_rules(checkpoint, boundary):
    decision = again(each_its_own(7, Known(0, 7, 7)), checkpoint=checkpoint)
    assert (None if decision is None else decision.boundary) == boundary


def test_a_job_of_which_no_host_knows_anything_starts_anew_only_where_it_had_not_begun():
    assert again({}, had_begun=False) is None
    assert isinstance(again({}, had_begun=True), Lost)
    assert again({}, had_begun=True, checkpoint=3) is None


def test_a_status_that_was_asked_for_survives():
    held = {host: inherit((task, 4, 0, 3), known=Known(0, 4, 4)) for task, host in enumerate("abc")}
    decision = again(held)
    assert isinstance(decision, Decision)
    assert decision.end == 3


def test_a_decision_that_follows_others_survives_its_way_through_etcd():
    decision = again(each_its_own(7, Known(0, 7, 7)))
    assert isinstance(decision, Decision)
    assert Decision.decode(decision.encode()) == decision
