"""When an epoch is finished everywhere: contributions go up a tree, the verdict comes down it."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.errors import GraphError
from taskgraph.plan.commit import UNBOUNDED, Contribution, Level, Reduction, Verdict, verdict
from taskgraph.plan.routes import FANOUT, tree_place

epochs = st.integers(0, 2**62)
levels = st.integers(-1, 2**62)
contributions = st.builds(Contribution, epochs, st.booleans(), st.booleans(), st.integers(0, 255), levels, levels)
live_ranks = st.sets(st.integers(0, 500), min_size=1, max_size=100).map(sorted)


@given(contributions)
def test_a_contribution_travels_as_it_is(contribution):
    assert Contribution.decode(contribution.encode()) == contribution


@given(st.builds(Verdict, epochs, st.booleans(), st.integers(0, 255), levels, levels))
def test_a_verdict_travels_as_it_is(said):
    assert Verdict.decode(said.encode()) == said


@pytest.mark.parametrize("kind", [Contribution, Verdict, Level])
def test_garbage_is_refused(kind):
    with pytest.raises(struct.error):
        kind.decode(b"abc")


@given(live_ranks)
def test_the_tree_has_every_live_rank_once(live):
    places = {rank: tree_place(live, rank) for rank in live}
    assert [rank for rank in live if places[rank].parent is None] == [live[0]]
    for rank, place in places.items():
        assert len(place.children) <= FANOUT
        assert all(places[child].parent == rank for child in place.children)
    assert sorted(child for place in places.values() for child in place.children) == live[1:]


@given(live_ranks, st.data(), st.integers(0, 2**32))
def test_the_root_hears_what_all_say_together_in_whatever_order_it_comes(live, data, seed):
    rng = random.Random(seed)
    places = {rank: tree_place(live, rank) for rank in live}
    reductions = {rank: Reduction(places[rank].children) for rank in live}
    for epoch in range(2):
        said = {
            rank: Contribution(
                epoch,
                rng.random() < 0.9,
                rng.random() < 0.1,
                rng.randrange(256),
                rng.choice([epoch, epoch + 1, UNBOUNDED]),
                rng.choice([epoch, UNBOUNDED]),
            )
            for rank in live
        }
        waiting = [(rank, None, said[rank]) for rank in live]
        whole = None
        while waiting:
            rank, source, contribution = waiting.pop(rng.randrange(len(waiting)))
            reduction = reductions[rank]
            complete = reduction.own(contribution) if source is None else reduction.child(source, contribution)
            if complete is not None and places[rank].parent is not None:
                waiting.append((places[rank].parent, rank, complete))
            elif complete is not None:
                assert whole is None
                whole = complete
        assert whole == Contribution(
            epoch,
            all(c.idle for c in said.values()),
            any(c.last for c in said.values()),
            max(c.status for c in said.values()),
            min(c.safe for c in said.values()),
            min(c.delivered for c in said.values()),
        )


def test_a_child_may_be_an_epoch_ahead():
    reduction = Reduction([1, 2])
    first, second = (Contribution(epoch, False, False, 0) for epoch in (0, 1))
    assert reduction.child(1, first) is None
    assert reduction.child(2, first) is None
    assert reduction.own(first) == first
    assert reduction.child(1, second) is None
    assert reduction.own(second) is None
    assert reduction.child(2, second) == second


def test_between_two_commits_a_subtree_says_how_far_all_of_it_has_got():
    reduction = Reduction([1, 2])
    assert reduction.lowest(Level(5, 5)) == Level(-1, -1)
    reduction.level(1, Level(4, 3))
    reduction.child(2, Contribution(4, False, False, 0, safe=5, delivered=4))
    assert reduction.lowest(Level(5, 5)) == Level(4, 3)
    reduction.level(1, Level(6, 6))
    assert reduction.lowest(Level(5, 5)) == Level(5, 4)


@given(st.builds(Level, levels, levels))
def test_a_level_travels_as_it_is(level):
    assert Level.decode(level.encode()) == level


def test_a_stranger_is_refused():
    with pytest.raises(ValueError, match="rank 3 is no child"):
        Reduction([1, 2]).child(3, Contribution(0, False, False, 0))


busy = contributions.map(lambda whole: whole._replace(idle=False))


@given(contributions)
def test_an_epoch_in_which_nobody_composed_anything_is_an_error_unless_it_is_the_last(whole):
    idle = whole._replace(idle=True)
    assert verdict(idle._replace(last=True), None).last
    with pytest.raises(GraphError, match=f"no task composed anything in epoch {whole.epoch}"):
        verdict(idle._replace(last=False), None)


@given(busy)
def test_without_a_number_of_epochs_only_a_request_ends_the_job(whole):
    assert verdict(whole, None).last == whole.last


@given(busy, st.integers(1, 2**62))
def test_a_number_of_epochs_ends_the_job_too(whole, number):
    assert verdict(whole, number).last == (whole.last or whole.epoch >= number - 1)


@given(busy)
def test_there_is_no_status_before_the_end(whole):
    said = verdict(whole, None)
    assert said.status == (whole.status if said.last else 0)
