"""What the root of the tree takes for the whole graph of an epoch."""

from __future__ import annotations

import pickle

from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph.plan.decision import start
from taskgraph.plan.layout import assign
from taskgraph.plan.messages import Topic
from taskgraph.program.codec import Codec
from taskgraph.run.composing import Composing


class NoReplicas:
    primaries = ()
    current = None


def test_what_is_declared_before_the_root_has_composed_the_first_epoch_is_not_taken_for_all():
    checked = []
    layout = assign(2, ["a", "b"], 0, "buddy")
    composing = Composing(0, NoReplicas(), NativeEpoch(Codec()), None, lambda graph, epoch: checked.append(epoch))
    composing.adopt(start({0: "a", 1: "b"}, layout))
    composing.receive(1, Topic.DECLARED, 0, pickle.dumps({1: ()}))
    composing.compose(0)
    assert checked == []
    composing.finished(0)
    assert checked == [0]
