"""Large values round a ring, small ones up a tree, arrays and bytes protected, an end asked for.

heavy.py [--tasks T] [--kib K] [--epochs E] [--backups B] [--placement P] [--every N]
"""

from __future__ import annotations

import argparse
import pickle
import sys

import numpy as np

import taskgraph as tg


class Heavy(tg.Task):
    def __init__(self, items, epochs):
        self.items, self.epochs = items, epochs

    def init(self, framework):
        self.id = framework.task_id
        self.framework = framework
        self.field = framework.protect("field", np.arange(self.items, dtype=float) + self.id)
        self.total = framework.protect("total", np.zeros(4))
        self.past = []
        framework.protect("past", save=lambda: pickle.dumps(self.past), load=self.load)

    def load(self, data):
        self.past = pickle.loads(data)

    def set_epoch(self, ctx, epoch):
        self.epoch, self.ctx = epoch, ctx
        left, right = ctx.neighbors("left"), ctx.neighbors("right")
        up, down = ctx.neighbors("parents"), ctx.neighbors("children")
        ctx.compose(self.give, outs=ctx.outbound(right, "field"))
        ctx.compose(self.mix, ins=ctx.inbound(left, "field"))
        ctx.compose(self.add, ins=ctx.inbound(down, "sum"), outs=ctx.outbound(up, "sum"))

    def give(self, ins, outs):
        for out in outs:
            out.put(self.field * 1.25)

    def mix(self, ins, outs):
        for channel in ins:
            self.field[:] = 0.5 * self.field + 0.25 * channel.get()
        part = self.epoch % 8 * self.items // 8
        self.field[part : part + 16] += self.ctx.rng.random(len(self.field[part : part + 16]))

    def add(self, ins, outs):
        mine = float(self.field[:64].sum()) + sum(channel.get()["sum"] for channel in ins)
        self.total[self.epoch % 4] = mine
        if self.epoch % 3 == 0:
            self.past.append((self.epoch, mine))
        for out in outs:
            out.put({"sum": mine, "from": self.id})
        if self.epoch == self.epochs - 1 and self.id == 1:
            self.framework.shutdown(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--kib", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--backups", type=int)
    parser.add_argument("--placement")
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    job = tg.Job(
        "heavy", given.tasks, backups=given.backups, placement=given.placement, protect_every=given.every, seed=7
    )
    job.set_task_builder(lambda task_id: Heavy(given.kib * 128, given.epochs))
    job.add_topology(tg.topology.Ring())
    job.add_topology(tg.topology.Tree(fanout=2))
    return job.start()


if __name__ == "__main__":
    sys.exit(main())
