"""One channel from task 0 to task 1 that carries one value of a list each epoch."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import taskgraph as tg


class Sender(tg.Task):
    def __init__(self, values: Sequence[Callable[[], object]]) -> None:
        self.values = values

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        ctx.compose(self.send, outs=ctx.outbound(1, "value"))

    def send(self, ins, outs):
        outs[0].put(self.values[self.epoch]())


class Receiver(tg.Task):
    def __init__(self, receive: Callable[[int, object], None]) -> None:
        self.take = receive

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        ctx.compose(self.receive, ins=ctx.inbound(0, "value"))

    def receive(self, ins, outs):
        value = ins[0].get()
        assert ins[0].get() is value
        self.take(self.epoch, value)


def carrying(values: Sequence[Callable[[], object]], receive: Callable[[int, object], None]) -> tg.Job:
    """Return a job that puts `values[epoch]()` and calls `receive(epoch, value)`."""
    job = tg.Job("carry", num_tasks=2, epochs=len(values))
    job.set_task_builder(lambda task: Receiver(receive) if task else Sender(values))
    return job


if __name__ == "__main__":
    from programs import bare
    from programs.arrays import assert_arrived, build

    recipes = pickle.loads(Path(sys.argv[1]).read_bytes())

    def check(epoch: int, value: object) -> None:
        try:
            assert_arrived(value, build(recipes[epoch]))
        except AssertionError as error:
            raise AssertionError(f"not as it was put: {recipes[epoch]}") from error

    status = bare.start(carrying([lambda recipe=recipe: build(recipe) for recipe in recipes], check))
    print(f"{len(recipes)} arrays carried, status {status}")
