"""Which checkpoint a job goes on from, which are removed, and how often one is worth it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskgraph.plan.checkpoints import KEEP, in_order, interval_s, next_boundary, to_remove
from taskgraph.plan.manifest import Name
from tests.checkpoints import OTHER, RUN, manifest_of


def of(boundary, run=RUN, generation=0, **rest):
    return manifest_of(Name(boundary, run, generation), **rest)


def test_the_newest_boundary_is_the_best():
    assert in_order([of(4), of(12), of(8)], set()) == [of(12), of(8), of(4)]


def test_checkpoints_of_a_finished_job_do_not_count():
    assert in_order([of(12, origin=OTHER), of(4)], {OTHER}) == [of(4)]
    assert in_order([of(12)], {RUN}) == []


def test_the_last_run_to_begin_afresh_rules_however_far_another_came():
    again = of(2, OTHER, origin=OTHER, started=5.0)
    assert in_order([of(40), again], set())[0] == again


def test_of_the_runs_that_went_on_the_last_rules():
    later = of(44, OTHER, attempt=2)
    assert in_order([of(48), of(40), later], set()) == [later, of(48), of(40)]


def test_what_was_written_in_a_history_that_was_given_up_does_not_count():
    history = {0: 0, 1: 4}
    assert in_order([of(8), of(4), of(6, generation=1, history=history)], set()) == [
        of(6, generation=1, history=history),
        of(4),
    ]


@given(st.sets(st.integers(0, 50)), st.integers(0, 50))
def test_two_complete_ones_always_stay_and_only_the_run_of_the_newest_removes(boundaries, incomplete):
    complete = [of(boundary) for boundary in boundaries]
    there = {one.name for one in complete} | {Name(incomplete, OTHER, 0)}
    removed = to_remove(there, complete, RUN, None)
    assert {one.name for one in in_order(complete, set())[:KEEP]}.isdisjoint(removed)
    assert len(complete) < KEEP or len(there) - len(removed) == KEEP
    assert to_remove(there, complete, OTHER, None) == []


def test_what_is_being_written_is_not_removed():
    busy = Name(12, RUN, 0)
    assert to_remove([of(4).name, of(8).name, busy, Name(6, RUN, 0)], [of(4), of(8)], RUN, busy) == [Name(6, RUN, 0)]


@given(st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 1000))
def test_the_next_boundary_is_the_first_of_the_grid_that_is_far_enough(at, ahead, every):
    found = next_boundary(at, ahead, every)
    assert found % every == 0
    assert at + ahead < found <= at + ahead + every


def test_the_interval_is_that_of_young_and_daly():
    assert 400 < interval_s(1.0, 86400.0) < 420  # sqrt(2 * 1 * 86400) = 416
    assert interval_s(10.0, 4.0) == 4.0


@given(st.floats(1e-3, 1e4), st.floats(1, 1e6))
def test_a_dearer_checkpoint_is_written_less_often_and_never_back_to_back(cost, mtbf):
    assert interval_s(cost, mtbf) > 0
    assert cost >= 2 * mtbf or interval_s(cost, mtbf) >= cost
