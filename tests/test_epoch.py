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

PLACES = ("init", "set_epoch", "compute", "committed", "exit")


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


class Ender(tg.Task):
    """Asks for the end from one place, in one epoch."""

    def __init__(self, place: str | None, status: int, epoch: int, seen: list) -> None:
        self.place, self.status, self.epoch, self.seen = place, status, epoch, seen

    def ask(self, place: str, epoch: int, shutdown) -> None:
        if (place, epoch) == (self.place, self.epoch):
            shutdown(self.status)

    def init(self, framework):
        self.framework = framework
        self.ask("init", self.epoch, framework.shutdown)

    def set_epoch(self, ctx, epoch):
        self.seen.append(epoch)
        self.ask("set_epoch", epoch, ctx.shutdown)
        ctx.compose(lambda ins, outs: self.ask("compute", epoch, ctx.shutdown))

    def committed(self, epoch):
        self.ask("committed", epoch, self.framework.shutdown)

    def exit(self):
        self.ask("exit", self.epoch, self.framework.shutdown)


@on_any_ranks
@pytest.mark.parametrize(("place", "last"), [("init", 0), ("set_epoch", 2), ("compute", 2), ("committed", 3)])
def test_the_end_may_be_asked_for_from_anywhere_and_that_epoch_is_the_last(ranks, place, last):
    seen = []
    tasks = [Ender(None, 0, 0, []), Ender(place, 7, 2, seen), Ender(None, 0, 0, [])]
    assert run(*tasks, ranks=ranks, epochs=None) == 7
    assert seen == list(range(last + 1))


@on_any_ranks
@pytest.mark.parametrize("place", ["committed", "exit"])
def test_a_status_given_after_the_last_epoch_is_refused_and_says_what_to_do(ranks, place):
    tasks = [Ender(None, 0, 0, []), Ender(place, 9, 1, []), Ender(None, 0, 0, [])]
    with pytest.raises(tg.UsageError, match=r"shutdown\(9\) was called after the last epoch.*raise SystemExit"):
        run(*tasks, ranks=ranks, epochs=2)


@on_any_ranks
def test_the_highest_status_wins(ranks):
    tasks = [
        Ender("set_epoch", 3, 1, []),
        Ender("compute", 200, 1, []),
        Ender("compute", 0, 1, []),
        Ender(None, 0, 0, []),
    ]
    assert run(*tasks, ranks=ranks, epochs=None) == 200


@pytest.mark.parametrize("status", [-1, 256, 1.0, True, "1", None])
def test_a_status_is_a_number_that_a_process_may_end_with(status):
    with pytest.raises(tg.UsageError, match="is no integer from 0 to 255"):
        run(Ender("compute", status, 0, []))


@on_any_ranks
@pytest.mark.parametrize("place", PLACES)
def test_an_exception_of_user_code_is_raised_as_it_is(ranks, place):
    class Mine(Exception):
        pass

    def fail(status):
        raise error

    class Failing(Ender):
        def ask(self, place, epoch, shutdown):
            super().ask(place, epoch, fail)

    error = Mine("mine")
    tasks = [Ender(None, 0, 0, []), Failing(place, 0, 1, []), Ender(None, 0, 0, [])]
    with pytest.raises(Mine) as raised:
        run(*tasks, ranks=ranks, epochs=2)
    assert raised.value is error


@on_any_ranks
def test_leaving_by_sys_exit_is_raised_as_it_is(ranks):
    def leave(ins, outs):
        raise SystemExit(3)

    with pytest.raises(SystemExit) as raised:
        run(None, lambda ctx, epoch: ctx.compose(leave), ranks=ranks)
    assert raised.value.code == 3


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


def test_no_thread_is_left_of_a_job_that_failed():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        run(lambda ctx, epoch: ctx.compose(lambda ins, outs: 1 / 0), hears, None, None, ranks=4)
    assert threading.active_count() == before
