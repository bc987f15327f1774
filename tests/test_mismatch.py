"""Graphs that do not fit together end the job and are named, on whatever ranks their tasks are."""

from __future__ import annotations

import numpy as np
import pytest
from jobs import get_into, job_of, on_any_ranks, put, run

import taskgraph as tg


def nothing(ins, outs):
    pass


def hears(ctx, epoch):
    ctx.compose(get_into([]), ins=ctx.inbound(0, "a"))


def speaks(tag):
    return lambda ctx, epoch: ctx.compose(put(1), outs=ctx.outbound(1, tag))


@on_any_ranks
@pytest.mark.parametrize("epoch", [0, 3])
def test_graphs_that_do_not_match_end_the_job_and_name_both_sides(ranks, epoch):
    def changes(ctx, now):
        speaks("a" if now < epoch else "b")(ctx, now)

    with pytest.raises(
        tg.GraphError, match=r"task 1 composed the in channel 0 -> 1 'a', but.* it has only 'b'"
    ) as raised:
        run(changes, hears, None, None, ranks=ranks, epochs=9)
    assert raised.value.epoch == epoch


@on_any_ranks
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_value_that_nobody_receives_ends_the_job(ranks, size):
    def sends(ctx, epoch):
        ctx.compose(put(np.zeros(size)), outs=ctx.outbound(3, "a"))

    with pytest.raises(tg.GraphError, match=r"task 0 composed the out channel 0 -> 3 'a', but task 3 .* it has none"):
        run(sends, None, None, None, ranks=ranks, epochs=9)


def waits(first, then):
    def compose(ctx, epoch):
        ctx.compose(nothing, ins=ctx.inbound(first, "x"))
        ctx.compose(put(1), outs=ctx.outbound(then, "x"))

    return compose


@on_any_ranks
@pytest.mark.parametrize(
    "tasks",
    [[waits(0, 0)], [waits(1, 1), waits(0, 0)], [waits(3, 1), waits(0, 2), waits(1, 3), waits(2, 0)]],
    ids=["within a task", "between two tasks", "around four tasks"],
)
def test_a_cycle_ends_the_job_and_is_named(ranks, tasks):
    with pytest.raises(tg.GraphError, match="the processors wait for each other in a cycle: processor"):
        run(*tasks, ranks=ranks)


@on_any_ranks
def test_a_large_graph_that_does_not_match_is_named_too(ranks):
    """What is declared is longer than any message that travels in one piece."""

    def sends(ctx, epoch):
        for number in range(2000):
            ctx.compose(put(number), outs=ctx.outbound(0, f"a long name for a channel {number}"))

    def receives(ctx, epoch):
        for number in range(2000):
            tag = "another" if number == 1234 else f"a long name for a channel {number}"
            ctx.compose(nothing, ins=ctx.inbound(3, tag))

    with pytest.raises(tg.GraphError, match="composed the in channel 3 -> 0 'another'") as raised:
        run(receives, None, None, sends, ranks=ranks)
    assert len(str(raised.value)) < 1000


@on_any_ranks
def test_the_builder_has_to_return_tasks(ranks):
    job = job_of(None, None)
    job.set_task_builder(lambda task_id: "a task")
    with pytest.raises(tg.UsageError, match=r"the task builder returned 'a task' for task [01]: it has to return a"):
        tg.testing.run(job, ranks=ranks)
