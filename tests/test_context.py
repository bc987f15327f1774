"""What a task may ask of an epoch: neighbours, channels, random numbers; and what it may not."""

from __future__ import annotations

import enum

import numpy as np
import pytest
from jobs import get_into, job_of, put, run

import taskgraph as tg


def nothing(ins, outs):
    pass


def asks(question, num_tasks: int = 4, **options):
    """Return what `question(ctx)` gives in the only epoch of task 1."""
    answers = []

    def compose(ctx, epoch):
        answers.append(question(ctx))
        ctx.compose(nothing)

    run(*[compose if task == 1 else None for task in range(num_tasks)], **options)
    return answers[0]


def test_one_task_gives_a_channel_and_several_give_a_list_in_the_order_given():
    channel = asks(lambda ctx: ctx.inbound(3, "a"))
    assert (channel.task, channel.tag, channel.id) == (3, "a", (3, 1, "a"))
    channel = asks(lambda ctx: ctx.outbound(3, "a"))
    assert (channel.task, channel.tag, channel.id) == (3, "a", (1, 3, "a"))
    assert [c.task for c in asks(lambda ctx: ctx.inbound([3, 0, 2], "a"))] == [3, 0, 2]
    assert [c.task for c in asks(lambda ctx: ctx.outbound((2, 1), 5))] == [2, 1]
    assert asks(lambda ctx: ctx.inbound([], "a")) == []


@pytest.mark.parametrize(
    "tasks",
    [range(2, 4), (task for task in (2, 3)), np.array([2, 3]), {2: "a", 3: "b"}, dict.fromkeys((2, 3)).keys()],
    ids=lambda tasks: type(tasks).__name__,
)
def test_several_tasks_may_come_in_any_kind_of_sequence(tasks):
    assert [channel.task for channel in asks(lambda ctx: ctx.inbound(tasks, "a"))] == [2, 3]


@pytest.mark.parametrize("task", [np.int64(2), np.uint8(2), np.array(2)])
def test_numbers_of_numpy_are_task_ids(task):
    channel = asks(lambda ctx: ctx.outbound(task, "a"))
    assert channel.task == 2
    assert type(channel.task) is int


def test_asking_again_gives_the_same_channel():
    assert asks(lambda ctx: ctx.inbound(2, "a") is ctx.inbound(2, "a") is ctx.inbound([2], "a")[0])
    assert asks(lambda ctx: ctx.inbound(2, "a") is not ctx.inbound(2, "b"))


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
@pytest.mark.parametrize("task", [4, -1, [0, 4], np.array([4])])
def test_a_task_out_of_range_is_refused(direction, task):
    with pytest.raises(tg.UsageError, match=rf"{direction}: task (4|-1) is out of range, there are tasks 0 to 3"):
        asks(lambda ctx: getattr(ctx, direction)(task, "a"))


@pytest.mark.parametrize("task", ["0", 1.0, None, ["a"], object()])
def test_what_is_no_task_is_refused(task):
    with pytest.raises(tg.UsageError, match="is not a task id"):
        asks(lambda ctx: ctx.inbound(task, "a"))


@pytest.mark.parametrize("tag", [1.5, None, True, ("a",), ["a"], b"a"])
def test_a_tag_is_a_text_or_a_number(tag):
    with pytest.raises(tg.UsageError, match=r"tag=.* a channel's tag is a str or an int"):
        asks(lambda ctx: ctx.inbound(2, tag))
    with pytest.raises(tg.UsageError, match=r"tag=.* a channel's tag is a str or an int"):
        asks(lambda ctx: ctx.outbound([0, 2], tag))


@pytest.mark.parametrize(("tag", "said"), [("\udc80", "surrogate"), (1 << 63, "64 bits"), (-1 << 99, "too long")])
def test_a_tag_that_cannot_be_written_down_is_refused(tag, said):
    with pytest.raises(tg.UsageError, match=f"tag.*{said}"):
        asks(lambda ctx: ctx.inbound(2, tag))


class Text(enum.StrEnum):
    W = "w"


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(("one", "other"), [(np.str_("w"), "w"), (Text.W, "w"), (Number.ONE, 1)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_tags_that_are_equal_name_the_same_channel(one, other, ranks):
    got = []
    sender = lambda ctx, epoch: ctx.compose(put("value"), outs=ctx.outbound(1, one))  # noqa: E731
    receiver = lambda ctx, epoch: ctx.compose(get_into(got), ins=ctx.inbound(0, other))  # noqa: E731
    assert run(sender, receiver, ranks=ranks) == 0
    assert got == ["value"]


def test_neighbors_come_from_the_linkage_in_its_order():
    neighbors = asks(
        lambda ctx: ctx.neighbors("next"), linkages={"next": lambda task, num, epoch: [task + 1, 0, num - 1]}
    )
    assert neighbors == (2, 0, 3)


def test_a_linkage_is_asked_in_every_epoch():
    seen = []

    def compose(ctx, epoch):
        seen.append((ctx.neighbors("moving"), ctx.neighbors("moving")))
        ctx.compose(nothing)

    run(compose, None, epochs=3, linkages={"moving": lambda task, num, epoch: [epoch % 2]})
    assert seen == [((0,), (0,)), ((1,), (1,)), ((0,), (0,))]


def test_an_unknown_linkage_is_named_with_those_that_there_are():
    with pytest.raises(
        tg.UsageError, match=r"linkage 'up' is unknown to task 1, epoch 0; known are 'parents', 'children'"
    ):
        asks(lambda ctx: ctx.neighbors("up"), topology=tg.topology.Tree(fanout=2))
    with pytest.raises(tg.UsageError, match="known are none: call add_topology or add_linkage"):
        asks(lambda ctx: ctx.neighbors("up"))


@pytest.mark.parametrize(
    ("returned", "said"),
    [([7], "task 7 is out of range"), (["a"], "'a' is not a task id"), (5, "has to return task ids")],
)
def test_a_linkage_that_returns_no_task_ids_is_named(returned, said):
    with pytest.raises(tg.UsageError, match=rf"linkage 'odd'.*{said}"):
        asks(lambda ctx: ctx.neighbors("odd"), linkages={"odd": lambda task, num, epoch: returned})


def test_random_numbers_are_the_same_on_any_rank_and_differ_by_task_and_epoch_and_seed():
    def drawn(ranks, seed):
        numbers = {}

        def compose_of(task):
            def compose(ctx, epoch):
                numbers[task, epoch] = [int(ctx.rng.integers(2**63))]
                ctx.compose(lambda ins, outs: numbers[task, epoch].append(int(ctx.rng.integers(2**63))))

            return compose

        run(*map(compose_of, range(3)), ranks=ranks, epochs=3, seed=seed)
        return numbers

    first = drawn(1, 5)
    assert all(drawn(ranks, 5) == first for ranks in (2, 3, 4))
    values = [number for pair in first.values() for number in pair]
    assert len(set(values)) == len(values) == 18
    assert not set(values) & {number for pair in drawn(1, 6).values() for number in pair}


def test_compose_belongs_into_set_epoch():
    contexts = []

    def compose(ctx, epoch):
        contexts.append(ctx)
        ctx.compose(lambda ins, outs: ctx.compose(nothing))

    with pytest.raises(tg.UsageError, match="compose was called outside set_epoch"):
        run(compose)
    with pytest.raises(tg.UsageError, match="compose was called outside set_epoch"):
        contexts[0].compose(nothing)


@pytest.mark.parametrize("wrong", [5, "name", None])
def test_what_cannot_compute_is_no_processor(wrong):
    with pytest.raises(tg.UsageError, match=r"processor=.* is neither callable nor has a compute method"):
        run(lambda ctx, epoch: ctx.compose(wrong))


@pytest.mark.parametrize(
    "arguments",
    [
        lambda ctx: {"ins": ctx.outbound(0, "a")},
        lambda ctx: {"outs": ctx.inbound(0, "a")},
        lambda ctx: {"ins": [5]},
        lambda ctx: {"outs": "ab"},
        lambda ctx: {"ins": None},
        lambda ctx: {"ins": [[ctx.inbound(0, "a")]]},
    ],
)
def test_what_is_no_channel_of_that_direction_is_refused(arguments):
    with pytest.raises(tg.UsageError, match=r"compose was given .* where a channel of ctx.(inbound|outbound) belongs"):
        run(lambda ctx, epoch: ctx.compose(nothing, **arguments(ctx)))


def test_a_channel_of_another_task_is_refused():
    stolen = []
    with pytest.raises(tg.UsageError, match="a channel of another task"):
        run(
            lambda ctx, epoch: stolen.append(ctx.inbound(1, "a")),
            lambda ctx, epoch: ctx.compose(nothing, ins=stolen[0]),
        )


@pytest.mark.parametrize("direction", ["ins", "outs"])
def test_a_channel_end_belongs_to_one_processor(direction):
    def compose(ctx, epoch):
        channel = ctx.inbound(0, "a") if direction == "ins" else ctx.outbound(0, "a")
        ctx.compose(nothing, **{direction: channel})
        ctx.compose(nothing, **{direction: channel})

    with pytest.raises(tg.GraphError, match=r"channel 0 -> 0 'a' was composed twice, by processors 0 and 1 of task 0"):
        run(compose)


def test_a_processor_has_a_channel_end_once():
    def compose(ctx, epoch):
        ctx.compose(nothing, ins=[ctx.inbound(0, "a")] * 2)

    with pytest.raises(tg.GraphError, match=r"channel 0 -> 0 'a' was composed twice, by processor 0 of task 0"):
        run(compose)


def test_tags_that_change_every_epoch_do_not_pile_up():
    contexts = []

    def compose(ctx, epoch):
        contexts.append(ctx)
        ctx.compose(put(epoch), outs=ctx.outbound(0, f"tag {epoch}"))
        ctx.compose(get_into([]), ins=ctx.inbound(0, f"tag {epoch}"))

    assert run(compose, epochs=3000) == 0
    assert len(contexts[0]._inbound) + len(contexts[0]._outbound) < 2000


def test_a_channel_may_be_kept_and_composed_again():
    class Keeps(tg.Task):
        channels = None

        def set_epoch(self, ctx, epoch):
            self.channels = self.channels or (ctx.outbound(0, "a"), ctx.inbound(0, "a"))
            ctx.compose(put(epoch), outs=self.channels[0])
            ctx.compose(get_into(got), ins=self.channels[1])

    got = []
    assert run(Keeps(), epochs=3) == 0
    assert got == [0, 1, 2]


def test_one_channel_needs_no_list():
    got = []

    def compose(ctx, epoch):
        ctx.compose(put(7), outs=ctx.outbound(0, "a"))
        ctx.compose(get_into(got), ins=(channel for channel in [ctx.inbound(0, "a")]))

    assert tg.testing.run(job_of(compose)) == 0
    assert got == [7]
