"""The compiled context answers as the one in Python does, whatever it is asked, epoch after epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import run

import taskgraph as tg
from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph._native.repeats import QuickContext
from taskgraph.program.codec import Codec
from taskgraph.program.context import Context
from taskgraph.program.topology import Static
from taskgraph.run.worker.channel_ends import ChannelEnds

TASKS, ME = 4, 1


class Doubler:
    """A processor that is an object."""

    def compute(self, ins, outs):
        pass


def first(ins, outs):
    pass


DOUBLER = Doubler()
PROCESSORS = (first, DOUBLER, DOUBLER.compute, lambda ins, outs: None, 7)
TASK = st.one_of(
    st.integers(-1, TASKS),
    st.lists(st.integers(0, TASKS - 1), max_size=3, unique=True),
    st.lists(st.integers(0, TASKS - 1), max_size=3, unique=True).map(tuple),
    st.sampled_from([range(2), np.int64(2), "2", None, True, ([1],), (np.array(1),)]),
)
TAG = st.sampled_from(["a", "b", 1, True, 1.0, None, ["a"]])
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("neighbors"), st.sampled_from(["ring", "shifting", "no such", ["ring"]])),
        st.tuples(st.just("inbound"), TASK, TAG),
        st.tuples(st.just("outbound"), TASK, TAG),
        st.tuples(st.just("compose"), st.sampled_from(PROCESSORS), st.integers(0, 9), st.integers(0, 9), st.booleans()),
    ),
    max_size=8,
)


def shifting(task, num_tasks, epoch):
    return [(task + epoch) % num_tasks]


def context(kind: type[Context], *, varies: bool = False) -> Context:
    """Return a context of task 1 of four, all on one rank."""
    maker = ChannelEnds(NativeEpoch(Codec()))
    ring = Static(TASKS, lambda task: [(task + 1) % TASKS])
    linkages = {"ring": ring, "shifting": shifting} if varies else {"ring": ring}
    return kind(ME, TASKS, linkages, 0, lambda status: None, maker)


def told(answer: Any) -> object:
    """Return what can be compared of an answer: channels are made anew for each context."""
    if isinstance(answer, list):
        return [told(one) for one in answer]
    return getattr(answer, "id", answer)


class Story:
    """What one context answers."""

    def __init__(self, kind: type[Context], *, varies: bool) -> None:
        self.context = context(kind, varies=varies)
        self.said: list[object] = []
        self.channels: dict[str, list[Any]] = {}

    def run(self, epoch: int, calls: list[tuple[Any, ...]]) -> None:
        """Compose an epoch."""
        self.context.begin(epoch)
        self.channels = {"inbound": [()], "outbound": [()]}
        for name, *details in calls:
            try:
                self.said.append(told(self.ask(name, *details)))
            except (tg.TaskgraphError, TypeError, AttributeError) as error:
                self.said.append((type(error), str(error)))
        try:
            self.said.append(self.context.finish())
        except tg.GraphError as error:
            self.said.append((type(error), str(error)))
        self.said.append((self.context.epoch, self.context.is_idle, self.context.declaration()))
        self.said.append([processor.compute for processor in self.context.processors])
        self.said.append(self.context.rng.integers(1 << 30))

    def ask(self, name: str, *details: Any) -> object:
        """Ask one thing."""
        if name != "compose":
            answer = getattr(self.context, name)(*details)
            if name in self.channels:
                self.channels[name].append(answer)
            return answer
        processor, some_in, some_out, as_tuple = details
        ins = self.channels["inbound"][some_in % len(self.channels["inbound"])]
        outs = self.channels["outbound"][some_out % len(self.channels["outbound"])]
        if as_tuple and isinstance(ins, list):
            ins = tuple(ins)
        return self.context.compose(processor, ins, outs)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(CALLS, st.integers(1, 3)), min_size=1, max_size=4), st.booleans())
def test_it_answers_as_the_one_in_python(epochs, varies):
    quick, plain = Story(QuickContext, varies=varies), Story(Context, varies=varies)
    epoch = 0
    for calls, times in epochs:
        for _ in range(times):
            quick.run(epoch, calls)
            plain.run(epoch, calls)
            assert quick.said == plain.said
            epoch += 1


@pytest.mark.parametrize("call", ["inbound", "outbound"])
@pytest.mark.parametrize("several", [False, True])
def test_another_channel_in_the_place_of_one_is_a_change(call, several):
    quick = context(QuickContext)

    def composed(epoch, task):
        quick.begin(epoch)
        channel = getattr(quick, call)([task] if several else task, "a")
        quick.compose(first, **{"ins" if call == "inbound" else "outs": channel})
        changed = quick.finish()
        (ends,) = quick.declaration()
        return changed, [id.source if call == "inbound" else id.destination for id in (*ends.ins, *ends.outs)]

    assert composed(0, 2) == (True, [2])
    assert composed(1, 2) == (False, [2])
    assert composed(2, 3) == (True, [3])
    assert composed(3, 3) == (False, [3])


def test_outside_set_epoch_nothing_is_composed():
    quick = context(QuickContext)
    quick.begin(0)
    quick.compose(first)
    assert quick.finish()
    with pytest.raises(tg.UsageError, match="outside set_epoch"):
        quick.compose(first)


def test_what_a_job_composes_with_is_compiled():
    kinds = []
    run(lambda ctx, epoch: kinds.append((type(ctx), isinstance(ctx, tg.Context))))
    assert kinds == [(QuickContext, True)]
