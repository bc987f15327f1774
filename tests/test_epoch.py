"""From compose to commit, epoch after epoch, on any number of ranks."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import Composed, get_into, job_of, on_any_ranks, put, run

import taskgraph as tg


def nothing(ins, outs):
    pass


class Node(tg.Task):
    """A task of a random graph: mixes what it gets into its state, epoch after epoch."""

    def __init__(self, task: int, edges: list[tuple[int, int, int]], states: dict) -> None:
        self.task, self.edges, self.states = task, edges, states

    def init(self, framework):
        self.state = framework.protect("state", np.full(50, float(self.task + 1)))

    def set_epoch(self, ctx, epoch):
        edges = [edge for edge in self.edges if edge[2] % (epoch + 1) == 0]  # another graph each epoch
        ctx.compose(self.draw)
        for a, b, tag in edges:
            if b == self.task:
                ctx.compose(self.mix, ins=ctx.inbound(a, tag))
        ctx.compose(self.mix, outs=[ctx.outbound(b, tag) for a, b, tag in edges if a == self.task])
        self.rng = ctx.rng

    def draw(self, ins, outs):
        self.state += self.rng.normal(size=50)

    def mix(self, ins, outs):
        for channel in ins:
            self.state *= 0.7
            self.state += channel.get() ** 2 / 3
        for out in outs:
            out.put(self.state)

    def exit(self):
        self.states[self.task] = self.state.tobytes()


@settings(deadline=None, max_examples=25)
@given(
    num_tasks=st.integers(1, 8),
    edges=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=15, unique=True),
    ranks=st.integers(2, 8),
    seed=st.integers(0, 100),
)
def test_results_are_the_same_to_the_bit_on_any_number_of_ranks(num_tasks, edges, ranks, seed):
    forward = [(a, b, tag) for tag, (a, b) in enumerate(edges) if a < b < num_tasks]

    def result(ranks):
        states = {}
        job = job_of(*(Node(task, forward, states) for task in range(num_tasks)), epochs=4, seed=seed)
        assert tg.testing.run(job, ranks=ranks) == 0
        return states

    assert result(ranks) == result(1)


def tree_of_sums(ranks: int, num_tasks: int = 15, epochs: int = 11) -> list[int]:
    """The root sends the epoch down; each task adds epoch times its id and the sums of its children."""
    seen = []

    def compose_of(task):
        def compose(ctx, epoch):
            up, down = ctx.neighbors("parents"), ctx.neighbors("children")
            ctx.compose(spread, ins=ctx.inbound(up, "epoch"), outs=ctx.outbound(down, "epoch"))
            ctx.compose(add, ins=ctx.inbound(down, "sum"), outs=ctx.outbound(up, "sum"))
            place["epoch"] = epoch

        def spread(ins, outs):
            place["got"] = ins[0].get() if ins else place["epoch"]
            put(place["got"])(ins, outs)

        def add(ins, outs):
            total = place["got"] * task + sum(channel.get() for channel in ins)
            put(total)(ins, outs)
            if not outs:
                seen.append(total)

        place = {}
        return compose

    status = run(*map(compose_of, range(num_tasks)), ranks=ranks, epochs=epochs, topology=tg.topology.Tree(fanout=2))
    assert status == 0
    return seen


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 15, 20])
def test_fewer_as_many_and_more_ranks_than_tasks_give_the_same(ranks):
    assert tree_of_sums(ranks) == [105 * epoch for epoch in range(11)]


@on_any_ranks
def test_tasks_that_compose_nothing_are_idle(ranks):
    got = []
    assert (
        run(
            None,
            lambda ctx, epoch: ctx.compose(lambda ins, outs: got.append(epoch)) if epoch != 1 else None,
            lambda ctx, epoch: ctx.compose(nothing) if epoch == 1 else None,
            ranks=ranks,
            epochs=3,
        )
        == 0
    )
    assert got == [0, 2]


@on_any_ranks
def test_an_epoch_in_which_nobody_composes_anything_is_an_error(ranks):
    with pytest.raises(tg.GraphError, match=r"no task composed anything in epoch 2.*ctx.shutdown\(\)") as raised:
        run(lambda ctx, epoch: ctx.compose(nothing) if epoch < 2 else None, None, ranks=ranks, epochs=9)
    assert raised.value.epoch == 2


@on_any_ranks
def test_the_last_epoch_may_be_empty(ranks):
    assert run(lambda ctx, epoch: ctx.compose(nothing) if epoch < 2 else None, None, ranks=ranks, epochs=3) == 0


@on_any_ranks
def test_an_empty_epoch_that_asks_for_the_end_is_the_last(ranks):
    seen = []

    def compose(ctx, epoch):
        seen.append(epoch)
        if epoch < 3:
            ctx.compose(nothing)
        else:
            ctx.shutdown()

    assert run(compose, None, None, ranks=ranks, epochs=None) == 0
    assert seen == [0, 1, 2, 3]


@on_any_ranks
def test_a_graph_may_change_every_epoch(ranks):
    """A token moves along a ring whose direction and length change."""
    got = []

    def compose_of(task):
        def compose(ctx, epoch):
            step = 1 + epoch % 3
            ctx.compose(put((task, epoch)), outs=ctx.outbound((task + step) % 4, "token"))
            ctx.compose(get_into(got) if task == 0 else nothing, ins=ctx.inbound((task - step) % 4, "token"))

        return compose

    assert run(*map(compose_of, range(4)), ranks=ranks, epochs=7) == 0
    assert got == [(3, 0), (2, 1), (1, 2), (3, 3), (2, 4), (1, 5), (3, 6)]


def test_a_value_of_the_next_epoch_may_come_early():
    """Rank 1 composes epoch 1 late, so that what rank 0 puts in it comes before."""
    sent, got = threading.Event(), []

    def sender(ctx, epoch):
        ctx.compose(send_of(epoch), outs=ctx.outbound(1, "x"))

    def send_of(epoch):
        def send(ins, outs):
            outs[0].put(epoch)
            if epoch == 1:
                sent.set()

        return send

    def receiver(ctx, epoch):
        if epoch == 1:
            assert sent.wait(30)
        ctx.compose(get_into(got), ins=ctx.inbound(0, "x"))

    assert run(sender, receiver, ranks=2, epochs=3) == 0
    assert got == [0, 1, 2]


@on_any_ranks
def test_committed_is_called_in_order_without_gaps_before_the_next_epoch(ranks):
    told = defaultdict(list)

    class Witness(Composed):
        def __init__(self, task):
            super().__init__(lambda ctx, epoch: (told[task].append(f"set {epoch}"), ctx.compose(nothing)))
            self.task = task

        def committed(self, epoch):
            told[self.task].append(f"committed {epoch}")

        def exit(self):
            told[self.task].append("exit")

    assert run(*map(Witness, range(5)), ranks=ranks, epochs=3) == 0
    order = ["set 0", "committed 0", "set 1", "committed 1", "set 2", "committed 2", "exit"]
    assert told == dict.fromkeys(range(5), order)


def test_an_epoch_is_committed_only_when_all_have_finished_it():
    finished, checked = set(), []

    class Slow(Composed):
        def __init__(self, task):
            super().__init__(lambda ctx, epoch: ctx.compose(lambda ins, outs: finished.add((task, epoch))))

        def committed(self, epoch):
            checked.append({(task, epoch) for task in range(4)} <= finished)

    assert run(*map(Slow, range(4)), ranks=4, epochs=5) == 0
    assert checked == [True] * 20


@on_any_ranks
def test_exit_comes_when_nothing_will_run_again(ranks):
    running, exited = set(), []

    class Leaver(Composed):
        def __init__(self, task):
            super().__init__(lambda ctx, epoch: ctx.compose(lambda ins, outs: running.add((task, epoch))))
            self.task = task

        def exit(self):
            exited.append(self.task)
            assert len(running) == 6

    assert run(*map(Leaver, range(3)), ranks=ranks, epochs=2) == 0
    assert sorted(exited) == [0, 1, 2]


def test_a_rank_that_is_slow_to_compose_is_not_taken_to_have_composed_another_epoch():
    """Rank 0 waits so long that it asks rank 1 who has composed, and gets the answer when the next epoch has begun."""

    def compose_of(task):
        def compose(ctx, epoch):
            if task == 1:
                time.sleep(0.03)
            ctx.compose(put(epoch), outs=ctx.outbound(1 - task, f"in epoch {epoch}"))
            ctx.compose(nothing, ins=ctx.inbound(1 - task, f"in epoch {epoch}"))

        return compose

    assert run(compose_of(0), compose_of(1), ranks=2, epochs=10) == 0
