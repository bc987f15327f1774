"""What comes before its epoch has begun: declarations at the root of the tree, and values."""

from __future__ import annotations

import pickle

from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph._native.channel import InboundChannel, Processor
from taskgraph.ids import ChannelId
from taskgraph.plan.decision import start
from taskgraph.plan.layout import assign
from taskgraph.plan.messages import Topic
from taskgraph.program.codec import Codec
from taskgraph.run.worker.composing import Composing


class NoReplicas:
    primaries = ()


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


def test_a_value_of_an_older_epoch_that_is_about_to_be_run_again_is_kept_for_it():
    got = []
    epoch = NativeEpoch(Codec())
    epoch.begin(3)
    epoch.close()  # a failure: all go back to epoch 1, and another rank is there first
    epoch.accept(7, 1, "early")
    inbound = InboundChannel(epoch, ChannelId(0, 1, "x"), 7)
    epoch.connect([[Processor(1, 0, lambda ins, outs: got.append(ins[0].get()), (inbound,), ())]], lambda task: None)
    epoch.begin(1)
    epoch.run()
    assert got == ["early"]
