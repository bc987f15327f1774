"""Logistic regression: weights go down a tree, gradients come up."""

import sys

import numpy as np

import taskgraph as tg


class Node(tg.Task):
    def init(self, framework):
        rng = np.random.default_rng(framework.task_id)
        self.x = rng.normal(size=(1000, 64))
        self.y = self.x.sum(axis=1) > 0
        self.w = framework.protect("w", np.zeros(64))  # state that survives failures
        self.root = framework.task_id == 0

    def set_epoch(self, ctx, epoch):  # compose this epoch's graph
        up, down = ctx.neighbors("parents"), ctx.neighbors("children")
        ctx.compose(self.spread, ins=ctx.inbound(up, "w"), outs=ctx.outbound(down, "w"))
        ctx.compose(self.reduce, ins=ctx.inbound(down, "grad"), outs=ctx.outbound(up, "grad"))

    def spread(self, ins, outs):
        for channel in ins:
            self.w[:] = channel.get()
        for channel in outs:
            channel.put(self.w)

    def reduce(self, ins, outs):  # the root has no parent: its sync point
        error = 1 / (1 + np.exp(-self.x @ self.w)) - self.y
        grad = self.x.T @ error / len(error) + sum(c.get() for c in ins)
        if outs:
            outs[0].put(grad)
        else:
            self.w -= 0.1 * grad

    def exit(self):
        if self.root:
            print(self.w)


job = tg.Job("logreg", num_tasks=15, backups=1, epochs=100)
job.set_task_builder(lambda task_id: Node())
job.add_topology(tg.topology.Tree(fanout=2))  # linkages "parents" and "children"
sys.exit(job.start())
