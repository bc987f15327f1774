"""What a backup does with a copy that arrives: in which order it is written, and what it may not overtake."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import taskgraph as tg
from taskgraph.backends.slot_delta import Base, Delta, DeltaHead
from taskgraph.config import Config
from taskgraph.plan.decision import start
from taskgraph.plan.holdings import Held, Known
from taskgraph.plan.layout import Layout
from taskgraph.plan.messages import Topic
from taskgraph.run.state.copies import closed, opened
from taskgraph.run.state.replicas import Program
from taskgraph.run.state.slot_note import note
from taskgraph.run.state.snapshots import NoSnapshots
from taskgraph.run.worker.control import NoControl
from taskgraph.run.worker.worker import Worker

KNOWN_BYTES = 40
WHOLE = Delta(
    DeltaHead(
        task=0, boundary=4, generation=0, note=note(2, -1), history=(), form=1, checksum=2, block=16384, lengths=(9,),
        base=None, runs=((0, 0, 1),), nbytes=9,
    ),
    [memoryview(b"the bytes")],
)  # fmt: skip


class Idle(tg.Task):
    def init(self, framework):
        self.x: NDArray = framework.protect("x", np.zeros(1))

    def set_epoch(self, ctx, epoch):
        pass


class Full(NoSnapshots):
    """Snapshots of a host that keeps three, of boundaries 1 to 3, and writes down what is done to it."""

    def __init__(self):
        self.done = []

    def held(self):
        return [Held(0, boundary, 0, -1) for boundary in (1, 2, 3)]

    def held_of(self, task):
        return self.held()

    def record(self, known):
        self.done.append(("record", known.safe))

    def store(self, copy):
        self.done.append(("store", copy.slot, copy.blocks))
        return True


class Sent(list):
    """The connections of a rank, of which only what is sent matters here."""

    def protect(self, array):
        pass

    def peer(self, rank):
        pass

    def send_control(self, peer, topic, epoch, data):
        self.append((peer, topic))


def test_a_commit_that_comes_with_a_copy_frees_room_before_the_copy_is_written():
    snapshots, sent = Full(), Sent()
    program = Program(Config.from_env({}, name="copies", num_tasks=1, backups=1, epochs=9), lambda task: Idle(), {})
    decision = start({0: "a", 1: "b"}, Layout(((0, 1),)))
    worker = Worker(
        program,
        1,
        "b",
        decision,
        lambda epoch, codec, handlers: sent,
        lambda graph, epoch: None,
        snapshots,
        NoControl(),
    )
    orders = worker._member.adopt(decision, {0: 0}, [])
    worker._composing.adopt(decision)
    worker._maker = None
    worker._obey(orders)
    sent.clear()
    worker._epochs.are_computing = True
    worker._on_copy(0, closed(WHOLE, Known(generation=0, safe=2, delivered=2)))
    assert snapshots.done == [("record", 2), ("store", Held(0, 4, 0), [b"the bytes"])]
    assert sent == [(0, Topic.ACK)]


def test_a_copy_arrives_as_what_it_was_sent_as():
    known = Known(3, 1, 1, 40, 0)
    head = WHOLE.head._replace(note=note(2, 7), base=Base(3, 0, 5))
    arrived = opened([np.frombuffer(frame, "u1") for frame in closed(Delta(head, WHOLE.frames), known)])
    assert arrived[:4] == (Held(0, 4, 0, 7), Held(0, 3, 0), known, head)
    assert bytes(arrived.blocks[0]) == b"the bytes"


@given(st.data())
def test_a_copy_that_was_damaged_or_forged_is_never_taken_for_one(data):
    lead = bytearray(closed(WHOLE, Known())[0])
    if data.draw(st.booleans()):
        lead[data.draw(st.integers(KNOWN_BYTES, len(lead) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del lead[data.draw(st.integers(0, len(lead) - 1)) :]
    with pytest.raises(ValueError, match="no header"):
        opened([bytes(lead)])
