"""A ring that takes its time: each task adds what its left neighbour has. Arguments: tasks, epochs, ms an epoch."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

import taskgraph as tg

TASKS, EPOCHS, MS = (int(word) for word in sys.argv[1:4])
FATE = sys.argv[4] if len(sys.argv) > 4 else ""


class Node(tg.Task):
    def init(self, framework):
        self.id = framework.task_id
        self.x = framework.protect("x", np.full(4, self.id, dtype=float))

    def set_epoch(self, ctx, epoch):
        self.noise, self.epoch = ctx.rng.random(4), epoch
        self.stop = ctx.shutdown
        ctx.compose(self.give, outs=ctx.outbound(ctx.neighbors("right"), "x"))
        ctx.compose(self.take, ins=ctx.inbound(ctx.neighbors("left"), "x"))

    def give(self, ins, outs):
        if self.id == 0:
            time.sleep(MS / 1000)
            print(f"epoch {self.epoch}", flush=True)
            self.meet_fate()
        outs[0].put(self.x + self.noise)

    def take(self, ins, outs):
        self.x[:] = 0.9 * self.x + 0.5 * ins[0].get()

    def meet_fate(self):
        if FATE == "dies" and self.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        elif FATE == "raises" and self.epoch == 2:
            raise RuntimeError("it broke")
        elif FATE == "stops" and self.epoch == 2:
            self.stop(3)

    def exit(self):
        print(f"result {self.id} {self.x.tobytes().hex()}", flush=True)


job = tg.Job("ring", num_tasks=TASKS, epochs=EPOCHS)
job.set_task_builder(lambda task_id: Node())
job.add_topology(tg.topology.Ring())
sys.exit(job.start())
