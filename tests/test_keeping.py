"""The table of a keeper: when it kills, waits, cleans up and leaves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.plan.ending import Ending
from taskgraph.plan.keeping import Do, Fact, Phase, patience_s, step, verdict

stories = st.lists(st.sampled_from(Fact), max_size=30)


def play(story: list[Fact]) -> list[tuple[Phase, Fact, tuple[Do, ...], Phase]]:
    phase = Phase.SERVING
    scenes = []
    for fact in story:
        after, orders = step(phase, fact)
        scenes.append((phase, fact, orders, after))
        phase = after
    return scenes


@given(stories)
def test_a_keeper_cleans_up_once_and_leaves_then(story: list[Fact]) -> None:
    scenes = play(story)
    assert sum(Do.CLEAN_UP in orders for _, _, orders, _ in scenes) <= 1
    for before, _, orders, after in scenes:
        assert (Do.CLEAN_UP in orders) == (after is Phase.LEAVING and before is not Phase.LEAVING)


@given(stories)
def test_it_never_cleans_up_while_ranks_may_live(story: list[Fact]) -> None:
    scenes = play(story)
    for n, (_, _, orders, _) in enumerate(scenes):
        if Do.CLEAN_UP in orders:
            known = {fact for _, fact, _, _ in scenes[:n]}
            killed = any(Do.KILL_RANKS in orders for _, _, orders, _ in scenes[:n])
            assert known & {Fact.RANKS_GONE, Fact.RANKS_LEFT} or killed


@given(stories)
def test_without_a_failure_only_the_end_of_the_launcher_kills(story: list[Fact]) -> None:
    happy: list[Fact] = [fact for fact in story if fact not in (Fact.FAILED, Fact.GRACE_OVER)]
    for _, fact, orders, _ in play(happy):
        if Do.KILL_RANKS in orders:
            assert fact is Fact.LAUNCHER_GONE


@given(stories)
def test_ranks_are_told_before_they_are_killed(story: list[Fact]) -> None:
    told = False
    for _, _, orders, _ in play(story):
        told = told or Do.SET_WORDS in orders
        assert told or Do.KILL_RANKS not in orders


@given(stories)
def test_a_grace_begins_with_a_failure_and_at_most_once(story: list[Fact]) -> None:
    begun = [fact for _, fact, orders, _ in play(story) if Do.START_GRACE in orders]
    assert begun in ([], [Fact.FAILED])


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.LEAVING, Phase.HOLDING)])
def test_from_every_phase_the_end_of_the_launcher_and_patience_lead_out(phase: Phase) -> None:
    waited_s = 0.0
    for _ in range(5):
        phase, _ = step(phase, Fact.LAUNCHER_GONE)
        if (patience := patience_s(phase, keeps_etcd=True)) < math.inf:
            waited_s += patience
            phase, _ = step(phase, Fact.PATIENCE_OVER)
    assert phase is Phase.LEAVING
    assert waited_s < 8


def test_what_a_host_holds_for_the_next_launch_goes_when_nobody_comes_for_it() -> None:
    phase, orders = step(Phase.LINGERING, Fact.UNFINISHED)
    assert (phase, orders) == (Phase.HOLDING, (Do.RELEASE,))
    assert 60 <= patience_s(phase, keeps_etcd=False) < math.inf
    assert step(phase, Fact.PATIENCE_OVER) == (Phase.LEAVING, (Do.CLEAN_UP,))
    assert step(phase, Fact.NOT_NEEDED) == (Phase.LEAVING, (Do.CLEAN_UP, Do.HAND_BACK))


def test_the_keeper_of_etcd_stays_with_no_rank_left_and_others_go() -> None:
    assert patience_s(Phase.EMPTY, keeps_etcd=True) == math.inf
    assert patience_s(Phase.EMPTY, keeps_etcd=False) < 5


def test_a_status_that_the_user_chose_is_no_failure() -> None:
    assert verdict(Ending(status=0)) is Fact.SUCCEEDED
    assert verdict(Ending(status=3)) is Fact.SUCCEEDED
    assert verdict(Ending(status=1, message="it broke")) is Fact.FAILED
