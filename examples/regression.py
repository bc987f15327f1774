"""A sum up a binary tree, the smallest whole program: the epoch goes down, the sums come up.

Each task adds epoch * task_id and the sums of its children. With 15 tasks the root sees 0, 105, 210, ..., 1050.

    python examples/regression.py
    mpirun -n 4 python examples/regression.py
"""

import argparse
import sys

import numpy as np

import taskgraph as tg

EPOCHS = 11


class Node(tg.Task):
    def init(self, framework):
        self.id, self.num_tasks = framework.task_id, framework.num_tasks
        self.received = 0  # lives for one epoch, between two processors: no need to protect it
        self.root = self.id == 0
        if self.root:
            self.sums = framework.protect("sums", np.zeros(EPOCHS, dtype=np.int64))

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        up, down = ctx.neighbors("parents"), ctx.neighbors("children")
        ctx.compose(self.spread, ins=ctx.inbound(up, "epoch"), outs=ctx.outbound(down, "epoch"))
        ctx.compose(self.add, ins=ctx.inbound(down, "sum"), outs=ctx.outbound(up, "sum"))

    def spread(self, ins, outs):
        self.received = self.epoch if self.root else ins[0].get()
        for channel in outs:
            channel.put(self.received)

    def add(self, ins, outs):
        total = self.received * self.id + sum(channel.get() for channel in ins)
        if self.root:
            self.sums[self.epoch] = total
        else:
            outs[0].put(total)

    def exit(self):
        if not self.root:
            return
        expected = np.arange(EPOCHS) * sum(range(self.num_tasks))
        right = np.array_equal(self.sums, expected)
        print("regression:", ", ".join(map(str, self.sums)), "as expected" if right else f"but expected {expected}")
        if not right:
            sys.exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=15, help="number of tasks (%(default)s)")
    options = parser.parse_args()

    job = tg.Job("regression", options.tasks, epochs=EPOCHS)
    job.set_task_builder(lambda task_id: Node())
    job.add_topology(tg.topology.Tree(fanout=2))
    return job.start()


if __name__ == "__main__":
    sys.exit(main())
