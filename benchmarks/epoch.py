"""An epoch of a sum up and down a binary tree, beside the same exchange written by hand in mpi4py.

    python benchmarks/epoch.py

Four tasks on four ranks; blocks of epochs of the one and the other alternate within one run. Once with processors that
do nothing but pass values on, once with processors that compute for a millisecond; and with ones that compute for one
and for ten milliseconds while 64 KiB of state are protected, a part of which changes, and copied to another host.
"""

import argparse
import statistics
import sys
import time

import numpy as np
from launch import as_ranks, report

import taskgraph as tg

RANKS = 4
STATE = 8192
COPIED = {"backups": 1, "ranks_per_host": 2}
RUNS = (  # name, key of the figure, epochs of a block, seconds of a processor, options
    ("empty processors", "epoch_over_mpi4py", 200, 0.0, {}),
    ("processors of 1 ms", "with_1_ms", 20, 1e-3, {}),
    ("processors of 1 ms, state copied", "with_1_ms_copied", 20, 1e-3, COPIED),
    ("processors of 10 ms, state copied", "with_10_ms_copied", 5, 1e-2, COPIED),
)


def compute(work_s):
    """Keep a core busy."""
    if work_s:
        end = time.thread_time() + work_s
        while time.thread_time() < end:
            pass


class ByHand:
    """The exchange as one writes it with mpi4py."""

    def __init__(self, comm, work_s):
        self.comm, self.work_s = comm, work_s
        rank = comm.rank
        self.parent = (rank - 1) // 2 if rank else None
        self.children = [child for child in (2 * rank + 1, 2 * rank + 2) if child < comm.size]
        self.down, self.up, self.received = np.zeros(1), np.zeros(1), np.zeros(1)

    def epoch(self, epoch):
        """Send the epoch down and the sums up."""
        self.down[0] = epoch
        if self.parent is not None:
            self.comm.Recv(self.down, self.parent, 1)
        for child in self.children:
            self.comm.Send(self.down, child, 1)
        compute(self.work_s)
        self.up[0] = epoch * self.comm.rank
        for child in self.children:
            self.comm.Recv(self.received, child, 2)
            self.up += self.received
        if self.parent is not None:
            self.comm.Send(self.up, self.parent, 2)


class Node(tg.Task):
    """The exchange as a task. Between blocks of epochs it runs as many by hand."""

    def __init__(self, comm, what, block, work_s, protects):
        self.by_hand, self.what, self.block, self.work_s = ByHand(comm, work_s), what, block, work_s
        self.protects = protects

    def init(self, framework):
        self.id = framework.task_id
        self.times = []
        self.down, self.up = np.zeros(1), np.zeros(1)
        if self.protects:
            self.up = framework.protect("up", np.zeros(STATE))[:1]

    def set_epoch(self, ctx, epoch):
        if epoch % self.block == 0:
            self.start_block()
        self.epoch = epoch
        up, down = ctx.neighbors("parents"), ctx.neighbors("children")
        ctx.compose(self.spread, ctx.inbound(up, "down"), ctx.outbound(down, "down"))
        ctx.compose(self.add, ctx.inbound(down, "up"), ctx.outbound(up, "up"))

    def start_block(self):
        """Time what was the last block of epochs, then run one by hand."""
        now = time.perf_counter()
        if self.epoch_started is not None:
            self.times.append(((now - self.epoch_started) / self.block, self.hand_s))
        self.by_hand.comm.Barrier()
        start = time.perf_counter()
        for epoch in range(self.block):
            self.by_hand.epoch(epoch)
        self.by_hand.comm.Barrier()
        self.epoch_started = time.perf_counter()
        self.hand_s = (self.epoch_started - start) / self.block

    epoch_started = None

    def spread(self, ins, outs):
        down = self.down
        down[0] = self.epoch
        if ins:
            down = ins[0].get()
        for channel in outs:
            channel.put(down)
        compute(self.work_s)

    def add(self, ins, outs):
        self.up[0] = self.epoch * self.id
        for channel in ins:
            self.up += channel.get()
        for channel in outs:
            channel.put(self.up)

    def exit(self):
        if self.id == 0:
            show(self.what, self.times)


def show(what, times):
    """Print the medians; the first block warms up."""
    ours, hand = (1e6 * statistics.median(column) for column in zip(*times[1:], strict=True))
    ratio = statistics.median(a / b for a, b in times[1:])
    print(f"{what}: {ours:.1f} us an epoch, by hand {hand:.1f} us, ratio {ratio:.3f}", flush=True)
    RATIOS[what] = round(ratio, 3)


RATIOS = {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=21, help="blocks of epochs of each kind (%(default)s)")
    options = parser.parse_args()
    as_ranks(RANKS)

    import mpi4py

    mpi4py.rc.thread_level = "funneled"
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()
    status = 0
    for what, _, block, work_s, how in RUNS:
        job = tg.Job("epoch", RANKS, epochs=options.blocks * block + 1, progress="off", **how)
        details = (comm, what, block, work_s, bool(how))
        job.set_task_builder(lambda task_id, details=details: Node(*details))
        job.add_topology(tg.topology.Tree(fanout=2))
        status = status or job.start()
    if comm.rank == 0:
        report({key: RATIOS[what] for what, key, *_ in RUNS})
    return status


if __name__ == "__main__":
    sys.exit(main())
