"""A driver with types, for mypy alone: what a user of the public names may rely on, and what is refused.

Under ``--strict`` an ignored error that is none is an error itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import taskgraph as tg


class Sum:
    """A processor that is an object."""

    def compute(self, ins: Sequence[tg.InboundChannel], outs: Sequence[tg.OutboundChannel]) -> None:
        total = sum(channel.get() for channel in ins)
        for channel in outs:
            channel.put(total, copy=True)


class Node(tg.Task):
    def init(self, framework: tg.Framework) -> None:
        assert_type(framework.task_id, int)
        assert_type(framework.is_primary, bool)
        self.weights: NDArray[np.float64] = framework.protect("weights", np.zeros(3))
        assert_type(framework.protect("log", save=self.save, load=self.load), None)
        framework.protect("both", np.zeros(3), save=self.save, load=self.load)  # type: ignore[call-overload]
        framework.logger.info("task %d of %d", framework.task_id, framework.num_tasks)
        self.seen: list[int] = []

    def save(self) -> bytes:
        return json.dumps(self.seen).encode()

    def load(self, state: bytes) -> None:
        self.seen = json.loads(state)

    def set_epoch(self, ctx: tg.Context, epoch: int) -> None:
        others = ctx.neighbors("others")
        assert_type(others, tuple[int, ...])
        assert_type(ctx.inbound(0, "x"), tg.InboundChannel)
        assert_type(ctx.inbound(others, "x"), list[tg.InboundChannel])
        assert_type(ctx.outbound(0, 5), tg.OutboundChannel)
        assert_type(ctx.outbound(others, 5), list[tg.OutboundChannel])
        assert_type(ctx.rng, np.random.Generator)
        ctx.inbound(others, 1.5)  # type: ignore[call-overload]
        ctx.compose(Sum(), ins=ctx.inbound(others, "x"), outs=ctx.outbound(0, "sum"))
        ctx.compose(self.give, outs=ctx.outbound(others, "x"))
        ctx.compose(lambda ins, outs: None, ctx.inbound(0, "sum"))
        ctx.compose("give")  # type: ignore[arg-type]
        ctx.shutdown(status=3)

    def give(self, ins: Sequence[tg.InboundChannel], outs: Sequence[tg.OutboundChannel]) -> None:
        for channel in outs:
            assert_type(channel.task, int)
            assert_type(channel.tag, str | int)
            channel.put(self.weights)
            channel.get()  # type: ignore[attr-defined]

    def committed(self, epoch: int) -> None:
        self.seen.append(epoch)


class Idle(tg.Task):
    """Lacks `set_epoch`."""


class Builder:
    def build(self, task_id: int) -> tg.Task:
        return Node()


def everybody(task_id: int, num_tasks: int, epoch: int) -> Sequence[int]:
    return range(num_tasks)


def main() -> int:
    job = tg.Job("typed", 4, epochs=3, backups=1, placement="buddy", seed=1, etcd=["127.0.0.1:2379"], progress="off")
    tg.Job("typed", num_tasks=4, placement="near")  # type: ignore[arg-type]
    job.set_task_builder(lambda task_id: Node())
    job.set_task_builder(Builder())
    job.set_task_builder(lambda task_id: Idle())  # type: ignore[abstract]
    job.set_task_builder(lambda task_id: 5)  # type: ignore[arg-type, return-value]
    job.add_linkage("everybody", everybody)
    job.add_linkage("nobody", lambda task_id: ())  # type: ignore[arg-type, misc]
    job.add_topology(tg.topology.Full())
    job.add_topology(tg.topology.Grid((2, 2), periodic=True))
    try:
        assert_type(tg.testing.run(job, ranks=2), int)
    except tg.GraphError as error:
        assert_type(error.task, int | None)
        if error.channel is not None:
            assert_type(error.channel.tag, str | int)
    status: Any = job.start()
    assert_type(job.start(), int)
    return int(status)
