"""What a backup does with a copy that arrives: in which order it is written, and what it may not overtake."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import taskgraph as tg
from taskgraph.config import Config
from taskgraph.plan.decision import start
from taskgraph.plan.holdings import Held, Known
from taskgraph.plan.layout import Layout
from taskgraph.plan.messages import Topic
from taskgraph.run.control import NoControl
from taskgraph.run.replicas import Program
from taskgraph.run.worker import Worker

COPY = Held(0, 4, 0, -1)


class Idle(tg.Task):
    def init(self, framework):
        self.x: NDArray = framework.protect("x", np.zeros(1))

    def set_epoch(self, ctx, epoch):
        pass


class Full:
    """Snapshots of a host that keeps three, of boundaries 1 to 3, and writes down what is done to it."""

    floor = 0

    def __init__(self, known):
        self.known, self.done = known, []

    def held(self):
        return [Held(0, boundary, 0, -1) for boundary in (1, 2, 3)]

    def declare(self, replica):
        pass

    def adopt(self, generation, history):
        pass

    def opened(self, frames):
        return COPY, None, self.known

    def record(self, known):
        self.done.append(("record", known.safe))

    def store(self, slot, base, frames):
        self.done.append(("store", slot.boundary, frames))
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
    snapshots, sent = Full(Known(generation=0, safe=2, delivered=2)), Sent()
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
    worker._computing = True
    worker._on_copy(0, ["the bytes"])
    assert snapshots.done == [("record", 2), ("store", 4, ["the bytes"])]
    assert sent == [(0, Topic.ACK)]
