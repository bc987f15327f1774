"""Does what all tasks composed fit together, and can it run?"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.errors import GraphError
from taskgraph.ids import ChannelId
from taskgraph.program.graph import Ends, TaskGraph, check

Graphs = dict[int, TaskGraph]


def ends(ins: str = "", outs: str = "") -> Ends:
    """Write channels as ``"0>1:tag 1>1"``."""

    def channels(text: str) -> tuple[ChannelId, ...]:
        found = re.findall(r"(\d+)>(\d+)(?::(\w+))?", text)
        return tuple(ChannelId(int(source), int(destination), tag or "x") for source, destination, tag in found)

    return Ends(channels(ins), channels(outs))


def error_of(graphs: Graphs) -> GraphError:
    with pytest.raises(GraphError) as raised:
        check(graphs, 7)
    return raised.value


@pytest.mark.parametrize(
    "graphs",
    [
        {},
        {0: ()},
        {0: (ends(),)},
        {0: (ends(outs="0>1"),), 1: (ends(ins="0>1"),)},
        {0: (ends(outs="0>0"), ends(ins="0>0"))},
        {0: (ends(outs="0>1"), ends(ins="1>0")), 1: (ends(ins="0>1", outs="1>0"),)},
        {0: (ends(outs="0>1:a 0>1:b"),), 1: (ends(ins="0>1:b"), ends(ins="0>1:a"))},
        {0: (ends(outs="0>1"), ends(ins="1>0")), 1: (ends(outs="1>0"), ends(ins="0>1"))},
    ],
)
def test_what_fits_is_accepted(graphs):
    check(graphs, 0)


def test_an_in_channel_that_nobody_sends_into_names_both_sides():
    error = error_of({0: (ends(outs="0>1:b 0>1:c"),), 1: (ends(ins="0>1:a 0>1:b 0>1:c"),)})
    assert str(error) == (
        "task 1 composed the in channel 0 -> 1 'a', but task 0 composed no out channel of that tag to task 1: "
        "it has only 'b', 'c'"
    )
    assert (error.task, error.epoch, error.channel) == (1, 7, ChannelId(0, 1, "a"))


def test_an_out_channel_that_nobody_receives_names_both_sides():
    error = error_of({0: (ends(outs="0>1"),)})
    assert str(error) == (
        "task 0 composed the out channel 0 -> 1 'x', but task 1 composed no in channel of that tag from task 0: "
        "it has none"
    )
    assert (error.task, error.epoch, error.channel) == (0, 7, ChannelId(0, 1, "x"))


def test_a_message_names_some_of_many_tags():
    graphs = {0: (ends(outs=" ".join(f"0>1:t{i}" for i in range(1000))),), 1: (ends(ins="0>1:a"),)}
    assert str(error_of(graphs)).endswith(
        "it has only 't0', 't1', 't2', 't3', 't4', 't5', 't6', 't7', 't8', 't9' and 990 more"
    )


def test_a_message_names_the_first_steps_of_a_long_cycle():
    graphs = {n: (ends(f"{(n - 1) % 100}>{n}", f"{n}>{(n + 1) % 100}"),) for n in range(100)}
    assert str(error_of(graphs)).count("comes before") == 10


def test_a_number_and_its_text_are_different_tags():
    graphs = {
        0: (Ends((), (ChannelId(0, 1, 1),)),),
        1: (Ends((ChannelId(0, 1, "1"),), ()),),
    }
    assert "it has only 1" in str(error_of(graphs))


@pytest.mark.parametrize(
    ("graphs", "steps"),
    [
        pytest.param(
            {0: (ends(ins="0>0", outs="0>0"),)},
            {"processor 0 of task 0 comes before processor 0 of task 0 by channel 0 -> 0 'x'"},
            id="one processor",
        ),
        pytest.param(
            {0: (ends(ins="0>0"), ends(outs="0>0"))},
            {
                "processor 0 of task 0 comes before processor 1 of task 0 by the order composed",
                "processor 1 of task 0 comes before processor 0 of task 0 by channel 0 -> 0 'x'",
            },
            id="against the order of a task",
        ),
        pytest.param(
            {0: (ends(ins="1>0", outs="0>1"),), 1: (ends(ins="0>1", outs="1>0"),)},
            {
                "processor 0 of task 0 comes before processor 0 of task 1 by channel 0 -> 1 'x'",
                "processor 0 of task 1 comes before processor 0 of task 0 by channel 1 -> 0 'x'",
            },
            id="across tasks",
        ),
        pytest.param(
            {0: (ends(ins="1>0"), ends(outs="0>1")), 1: (ends(ins="0>1"), ends(outs="1>0"))},
            {
                "processor 0 of task 0 comes before processor 1 of task 0 by the order composed",
                "processor 1 of task 0 comes before processor 0 of task 1 by channel 0 -> 1 'x'",
                "processor 0 of task 1 comes before processor 1 of task 1 by the order composed",
                "processor 1 of task 1 comes before processor 0 of task 0 by channel 1 -> 0 'x'",
            },
            id="across tasks by their orders",
        ),
    ],
)
def test_a_cycle_is_named_step_by_step(graphs, steps):
    error = error_of(graphs)
    head, said = str(error).split(": ", 1)
    assert head == "the processors wait for each other in a cycle"
    assert set(said.split("; ")) == steps
    assert error.epoch == 7
    assert error.task in graphs
    assert error.channel is not None


@st.composite
def matched_graphs(draw) -> Graphs:
    """Return graphs whose channels have both ends, in any order at all."""
    processors = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    places = [(task, index) for task, count in enumerate(processors) for index in range(count)]
    pairs = draw(st.lists(st.tuples(st.sampled_from(places), st.sampled_from(places)), max_size=8))
    ins, outs = {place: [] for place in places}, {place: [] for place in places}
    for number, (sender, receiver) in enumerate(pairs):
        channel = ChannelId(sender[0], receiver[0], number)
        outs[sender].append(channel)
        ins[receiver].append(channel)
    return {
        task: tuple(Ends(tuple(ins[task, index]), tuple(outs[task, index])) for index in range(count))
        for task, count in enumerate(processors)
    }


def can_run(graphs: Graphs) -> bool:
    """Fire processors as ranks do, until all have fired or none can."""
    at = dict.fromkeys(graphs, 0)
    values: set[ChannelId] = set()
    fired = True
    while fired:
        fired = False
        for task, graph in graphs.items():
            while at[task] < len(graph) and values.issuperset(graph[at[task]].ins):
                values.update(graph[at[task]].outs)
                at[task] += 1
                fired = True
    return all(at[task] == len(graph) for task, graph in graphs.items())


@given(matched_graphs())
def test_a_graph_is_accepted_just_when_it_can_run(graphs):
    if can_run(graphs):
        check(graphs, 0)
    else:
        assert "cycle" in str(error_of(graphs))


@given(matched_graphs(), st.data())
def test_a_missing_end_is_always_found(graphs, data):
    places = [
        (task, i, side) for task, graph in graphs.items() for i, e in enumerate(graph) for side in (0, 1) if e[side]
    ]
    if not places:
        return
    task, index, side = data.draw(st.sampled_from(places))
    broken = list(graphs[task][index])
    missing = data.draw(st.sampled_from(broken[side]))
    broken[side] = tuple(channel for channel in broken[side] if channel != missing)
    graph = (*graphs[task][:index], Ends(*broken), *graphs[task][index + 1 :])
    error = error_of({**graphs, task: graph})
    assert error.channel == missing
    assert error.task == (missing.source if side == 0 else missing.destination)
