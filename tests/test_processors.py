"""Processors fire once an epoch, in the order composed, with all their values; each puts one into each out channel."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from jobs import get_into, on_any_ranks, put, run

import taskgraph as tg


def notes(order: list, name: object):
    """Return a processor that writes down that it fired, passes on what it got, and puts it everywhere."""

    def compute(ins, outs):
        order.append(name)
        got = [channel.get() for channel in ins]
        for out in outs:
            out.put([name, *got])

    return compute


def test_processors_of_a_task_fire_in_the_order_composed():
    order = []

    def compose(ctx, epoch):
        for name in "abcde":
            ctx.compose(notes(order, name))

    run(compose, epochs=2)
    assert order == list("abcdeabcde")


def test_one_that_waits_holds_up_those_composed_after_it():
    order = []

    def first(ctx, epoch):
        ctx.compose(notes(order, "waits"), ins=ctx.inbound(1, "x"))
        ctx.compose(notes(order, "after"))

    def second(ctx, epoch):
        ctx.compose(notes(order, "sends"), outs=ctx.outbound(0, "x"))

    run(first, second)
    assert order == ["sends", "waits", "after"]


@on_any_ranks
def test_a_processor_gets_every_value_and_puts_every_value(ranks):
    got = []

    def source(ctx, epoch):
        ctx.compose(put(epoch), outs=ctx.outbound([1, 2], "x"))

    def middle(ctx, epoch):
        ctx.compose(notes([], epoch), ins=ctx.inbound(0, "x"), outs=ctx.outbound(3, "y"))

    def sink(ctx, epoch):
        ctx.compose(get_into(got), ins=ctx.inbound([2, 1], "y"))

    assert run(source, middle, middle, sink, ranks=ranks, epochs=3) == 0
    assert got == [[0, 0], [0, 0], [1, 1], [1, 1], [2, 2], [2, 2]]


@on_any_ranks
def test_a_task_may_have_a_channel_to_itself(ranks):
    got = []

    def compose(ctx, epoch):
        ctx.compose(put(epoch), outs=ctx.outbound(0, "x"))
        ctx.compose(get_into(got), ins=ctx.inbound(0, "x"))

    assert run(compose, None, ranks=ranks, epochs=3) == 0
    assert got == [0, 1, 2]


def test_an_object_with_a_compute_method_is_a_processor():
    class Adder:
        def __init__(self):
            self.total = 0

        def compute(self, ins, outs):
            self.total += sum(channel.get() for channel in ins)
            for out in outs:
                out.put(self.total)

    adder, got = Adder(), []

    def compose(ctx, epoch):
        ctx.compose(put(epoch), outs=ctx.outbound(0, "x"))
        ctx.compose(adder, ins=ctx.inbound(0, "x"), outs=ctx.outbound(0, "y"))
        ctx.compose(get_into(got), ins=ctx.inbound(0, "y"))

    run(compose, epochs=4)
    assert got == [0, 1, 3, 6]


def test_the_same_object_composed_twice_is_two_processors():
    order = []
    same = notes(order, "same")

    def compose(ctx, epoch):
        ctx.compose(same, outs=ctx.outbound(0, "x"))
        ctx.compose(same, ins=ctx.inbound(0, "x"))

    run(compose)
    assert order == ["same", "same"]


def test_another_object_each_epoch_is_the_same_processor():
    seen = []

    def compose(ctx, epoch):
        ctx.compose(lambda ins, outs: seen.append(epoch))

    run(compose, epochs=3)
    assert seen == [0, 1, 2]


def test_ends_come_as_tuples_in_the_order_composed():
    seen = []

    def compose(ctx, epoch):
        ctx.compose(put(1), outs=[ctx.outbound(0, "a"), ctx.outbound(0, "b")])
        ctx.compose(lambda ins, outs: seen.append((ins, outs)), ins=[ctx.inbound(0, "b"), ctx.inbound(0, "a")])

    run(compose)
    ((ins, outs),) = seen
    assert ([channel.tag for channel in ins], outs) == (["b", "a"], ())
    assert type(ins) is type(outs) is tuple


def test_a_second_get_gives_the_same_object():
    def compose(ctx, epoch):
        ctx.compose(put([1]), outs=ctx.outbound(0, "x"))
        ctx.compose(same_twice, ins=ctx.inbound(0, "x"))

    def same_twice(ins, outs):
        assert ins[0].get() is ins[0].get()

    assert run(compose) == 0


def test_a_value_need_not_be_gotten():
    def compose(ctx, epoch):
        ctx.compose(put([1]), outs=ctx.outbound(0, "x"))
        ctx.compose(lambda ins, outs: None, ins=ctx.inbound(0, "x"))

    assert run(compose, epochs=2) == 0


@on_any_ranks
def test_a_second_put_is_an_error(ranks):
    def twice(ins, outs):
        outs[0].put(1)
        outs[0].put(2)

    with pytest.raises(tg.GraphError, match=r"channel 0 -> 1 'x' was put a second value in epoch 3") as raised:
        run(
            lambda ctx, epoch: ctx.compose(twice if epoch == 3 else put(1), outs=ctx.outbound(1, "x")),
            lambda ctx, epoch: ctx.compose(get_into([]), ins=ctx.inbound(0, "x")),
            ranks=ranks,
            epochs=5,
        )
    assert (raised.value.task, raised.value.epoch, raised.value.channel) == (0, 3, (0, 1, "x"))


@on_any_ranks
def test_a_value_never_put_is_an_error(ranks):
    def forgets(ins, outs):
        outs[0].put(1)

    said = r"processor 1 of task 0 returned without a value in its out channel 0 -> 1 'y': every out channel gets one"

    def compose(ctx, epoch):
        ctx.compose(lambda ins, outs: None)
        ctx.compose(forgets, outs=[ctx.outbound(1, "x"), ctx.outbound(1, "y")])

    with pytest.raises(tg.GraphError, match=said) as raised:
        run(
            compose,
            lambda ctx, epoch: ctx.compose(get_into([]), ins=[ctx.inbound(0, "x"), ctx.inbound(0, "y")]),
            ranks=ranks,
        )
    assert (raised.value.task, raised.value.epoch, raised.value.channel) == (0, 0, (0, 1, "y"))


def test_a_put_that_failed_may_be_tried_again():
    got = []

    def tries(ins, outs):
        with pytest.raises((TypeError, AttributeError, ValueError)):
            outs[0].put(lambda: None)
        outs[0].put("picklable")

    def compose(ctx, epoch):
        ctx.compose(tries, outs=ctx.outbound(0, "x"))
        ctx.compose(get_into(got), ins=ctx.inbound(0, "x"))

    assert run(compose) == 0
    assert got == ["picklable"]


class Misuser(tg.Task):
    """Uses a channel at the wrong moment."""

    def __init__(self, moment: str, call: str) -> None:
        self.moment = moment
        self.call = call

    def use(self):
        self.inbound.get() if self.call == "get" else self.outbound.put(1)

    def set_epoch(self, ctx, epoch):
        self.outbound, self.inbound = ctx.outbound(0, "x"), ctx.inbound(0, "x")
        ctx.compose(self.use_if_other, outs=ctx.outbound(0, "y"))
        ctx.compose(put(1), outs=self.outbound)
        ctx.compose(get_into([]), ins=[self.inbound, ctx.inbound(0, "y")])
        if self.moment == "set_epoch" and epoch == 1:
            self.use()

    def use_if_other(self, ins, outs):
        outs[0].put(0)
        if self.moment == "other":
            self.use()

    def committed(self, epoch):
        if self.moment == "committed":
            self.use()

    def exit(self):
        if self.moment == "exit":
            self.use()


@pytest.mark.parametrize("moment", ["set_epoch", "committed", "exit"])
@pytest.mark.parametrize("call", ["get", "put"])
def test_channels_carry_values_only_while_a_processor_computes(moment, call):
    with pytest.raises(tg.UsageError, match=f"{call} on channel 0 -> 0 'x' outside compute"):
        run(Misuser(moment, call), epochs=2)


@pytest.mark.parametrize("call", ["get", "put"])
def test_a_channel_works_only_in_its_own_processor(call):
    with pytest.raises(tg.UsageError, match=rf"{call} on channel .* by processor 0 of task 0: it belongs to processor"):
        run(Misuser("other", call))


def test_a_channel_that_was_not_composed_does_not_work():
    def compose(ctx, epoch):
        channel = ctx.inbound(0, "x")
        ctx.compose(lambda ins, outs: channel.get())

    with pytest.raises(tg.UsageError, match=r"get on channel 0 -> 0 'x', which no processor of epoch 0 has"):
        run(compose)


@pytest.mark.parametrize("call", ["get", "put"])
def test_channels_of_a_graph_that_is_gone_refuse_work(call):
    old = {}

    def compose(ctx, epoch):
        if epoch == 0:
            old.update(get=ctx.inbound(0, "x").get, put=lambda: ctx.outbound(0, "x").put(1))
            ctx.compose(put(1), outs=ctx.outbound(0, "x"))
            ctx.compose(get_into([]), ins=ctx.inbound(0, "x"))
        else:
            ctx.compose(lambda ins, outs: old[call]())

    with pytest.raises(tg.UsageError, match=f"{call} on channel 0 -> 0 'x', which no processor of epoch 1 has"):
        run(compose, epochs=2)


@pytest.mark.parametrize("call", ["get", "put"])
def test_channels_of_a_job_that_is_over_refuse_work(call):
    kept = []

    def compose(ctx, epoch):
        kept.append({"get": ctx.inbound(0, "x").get, "put": lambda: ctx.outbound(0, "x").put(1)})
        ctx.compose(put(1), outs=ctx.outbound(0, "x"))
        ctx.compose(get_into([]), ins=ctx.inbound(0, "x"))

    run(compose)
    with pytest.raises(tg.UsageError, match=f"{call} on channel"):
        kept[0][call]()


def test_what_was_got_is_let_go_when_its_processor_has_computed():
    things = []

    def compose(ctx, epoch):
        ctx.compose(put(np.zeros(10)), outs=ctx.outbound(0, "x"))
        ctx.compose(look, ins=ctx.inbound(0, "x"))
        ctx.compose(nothing_is_left)

    def look(ins, outs):
        things.append(weakref.ref(ins[0].get()))

    def nothing_is_left(ins, outs):
        assert [thing() for thing in things] == [None]
        things.clear()

    assert run(compose, epochs=3) == 0
