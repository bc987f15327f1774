"""A rank that does not get on is reported once, with what it does or waits for, and goes on."""

from __future__ import annotations

import pytest

from taskgraph._native.channel import Epoch, InboundChannel, Processor
from taskgraph.ids import ChannelId
from taskgraph.program.channel import channel_key
from taskgraph.program.codec import Codec
from taskgraph.run.unit.stall import StallWatch
from taskgraph.testing.memory import MemoryCoordinator, MemoryStore

NOBODY = MemoryCoordinator(MemoryStore())


def epoch_with(compute, channel: ChannelId | None = None) -> Epoch:
    epoch = Epoch(Codec())
    ins = () if channel is None else (InboundChannel(epoch, channel, channel_key(channel)),)
    epoch.connect([[Processor(2, 0, compute, ins, ())]], lambda task: None)
    epoch.begin(7)
    return epoch


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "no progress" in record.message]


def test_a_computation_is_reported_once_with_its_task_and_stack(caplog):
    watch = StallWatch(3, 60.0)

    def compute(ins, outs):
        for now in (0.0, 59.0, 61.0, 200.0):
            watch.turn(NOBODY, now)

    epoch = epoch_with(compute)
    watch.watch(epoch)
    epoch.run()
    (report,) = reports(caplog)
    assert "rank 3 has made no progress for 61 s: epoch 7, task 2 computes in its processor 0" in report
    assert "in compute" in report


def test_the_channel_that_a_rank_waits_for_is_named(caplog):
    watch = StallWatch(3, 60.0)
    watch.watch(epoch_with(lambda ins, outs: None, ChannelId(0, 2, "grad")))
    watch.turn(NOBODY, 0.0)
    watch.turn(NOBODY, 60.0)
    (report,) = reports(caplog)
    assert f"it waits for channel {ChannelId(0, 2, 'grad')}" in report


def test_progress_begins_the_count_anew_and_zero_turns_it_off(caplog):
    watch, off = StallWatch(3, 60.0), StallWatch(3, 0.0)
    epoch = epoch_with(lambda ins, outs: None)
    for one in (watch, off):
        one.watch(epoch)
    for number in range(10):
        epoch.begin(number)
        watch.turn(NOBODY, 59.0 * number)
        off.turn(NOBODY, 59.0 * number)
    assert off.turn(NOBODY, 1e6) == float("inf")
    assert reports(caplog) == []
