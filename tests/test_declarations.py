"""When the graph of an epoch is known as a whole at the root, though only what changed travels."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskgraph.ids import ChannelId
from taskgraph.plan.declarations import Declarations
from taskgraph.program.graph import Ends, TaskGraph


def graph(tag: str) -> TaskGraph:
    return (Ends((ChannelId(0, 1, tag),), ()),)


def test_a_graph_is_whole_when_every_rank_has_composed_it():
    declarations = Declarations([0, 1])
    declarations.declared(0, {0: graph("a")})
    assert declarations.composed(0, 0) is None
    declarations.declared(0, {1: graph("b")})
    assert declarations.composed(0, 1) == {0: graph("a"), 1: graph("b")}


def test_a_graph_is_whole_when_every_rank_has_finished_the_epoch():
    declarations = Declarations([0, 1])
    declarations.declared(0, {0: graph("a")})
    assert declarations.finished(0) == {0: graph("a")}


def test_a_graph_is_checked_once():
    declarations = Declarations([0])
    declarations.declared(0, {0: graph("a")})
    assert declarations.composed(0, 0) is not None
    assert declarations.composed(0, 0) is None
    assert declarations.finished(0) is None
    assert declarations.finished(1) is None


def test_what_did_not_change_is_remembered():
    declarations = Declarations([0, 1])
    declarations.declared(0, {0: graph("a"), 1: graph("b")})
    declarations.finished(0)
    declarations.declared(5, {1: graph("c")})
    assert declarations.finished(5) == {0: graph("a"), 1: graph("c")}


def test_a_rank_that_had_composed_the_last_epoch_has_not_composed_this_one():
    declarations = Declarations([0, 1])
    declarations.composed(0, 1)
    declarations.declared(1, {0: graph("a")})
    assert declarations.composed(1, 0) is None
    assert declarations.composed(1, 1) == {0: graph("a")}


def test_a_late_answer_about_the_last_epoch_says_nothing_of_this_one():
    declarations = Declarations([0, 1])
    declarations.declared(1, {0: graph("a")})
    declarations.composed(1, 0)
    assert declarations.composed(0, 1) is None
    assert declarations.finished(1) == {0: graph("a")}


events = st.lists(st.tuples(st.sampled_from(["declared", "composed"]), st.integers(0, 2)), max_size=20)


@given(st.lists(events, min_size=1, max_size=4))
def test_no_graph_is_given_away_before_every_rank_had_its_say(story):
    """Against a slow twin that keeps everything that was ever said."""
    declarations = Declarations(range(3))
    known: dict[int, TaskGraph] = {}
    for epoch, happened in enumerate(story):
        composed: set[int] = set()
        unchecked = False
        for number, (what, rank) in enumerate(happened):
            if what == "declared":
                known[rank] = graph(f"{epoch} {number}")
                declarations.declared(epoch, {rank: known[rank]})
                unchecked = True
                continue
            composed.add(rank)
            whole = declarations.composed(epoch, rank)
            assert (whole is not None) == (unchecked and composed == {0, 1, 2})
            if whole is not None:
                assert whole == known
                unchecked = False
        assert declarations.finished(epoch) == (known if unchecked else None)
