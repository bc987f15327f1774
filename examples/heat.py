"""Heat spreads over a plate: the 2-D heat equation, a block of the plate for each task.

Each epoch a task swaps the edges of its block with its neighbors on the grid (halo exchange) and takes one explicit
Euler step. In the last epoch task 0 collects the plate; SciPy's steps on the whole plate must give the same.

    python examples/heat.py
    mpirun -n 8 python examples/heat.py
"""

import argparse
import sys

import numpy as np

import taskgraph as tg

PLATE = (90, 120)  # inner points; outside of them it is freezing, at 0
RATE = 0.2  # conductivity * time step / spacing^2: stable below 1/4

INNER = slice(1, -1)
# Heat on its way: the edge of the block that it leaves by, the side it comes from, the halo that it arrives in.
WAYS = {
    "north": ((1, INNER), "south", (-1, INNER)),
    "south": ((-2, INNER), "north", (0, INNER)),
    "west": ((INNER, 1), "east", (INNER, -1)),
    "east": ((INNER, -2), "west", (INNER, 0)),
}


def plate():
    """Return the plate at the start: two hot spots."""
    start = np.zeros(PLATE)
    start[10:30, 20:50] = 100
    start[60:80, 70:110] = 60
    return start


def block(task_id, grid):
    """Return the part of the plate that a task has, as an index."""
    place = np.unravel_index(task_id, grid)
    return tuple(
        slice(points * at // parts, points * (at + 1) // parts)
        for points, at, parts in zip(PLATE, place, grid, strict=True)
    )


class Block(tg.Task):
    def __init__(self, grid, epochs):
        self.grid, self.epochs = grid, epochs

    def init(self, framework):
        self.root = framework.task_id == 0
        self.u = framework.protect("u", np.pad(plate()[block(framework.task_id, self.grid)], 1))
        if self.root:
            self.whole = framework.protect("whole", np.zeros(PLATE))

    def set_epoch(self, ctx, epoch):
        outs = [c for way in WAYS for c in ctx.outbound(ctx.neighbors(way), way)]
        ins = [c for way, (_, source, _) in WAYS.items() for c in ctx.inbound(ctx.neighbors(source), way)]
        ctx.compose(self.send_edges, outs=outs)
        ctx.compose(self.step, ins=ins)
        if epoch == self.epochs - 1:
            ctx.compose(self.deliver, outs=ctx.outbound(ctx.neighbors("center"), "block"))
            ctx.compose(self.collect, ins=ctx.inbound(ctx.neighbors("leaves"), "block"))

    def send_edges(self, ins, outs):
        for channel in outs:
            edge, _, _ = WAYS[channel.tag]
            channel.put(self.u[edge])

    def step(self, ins, outs):
        for channel in ins:
            _, _, halo = WAYS[channel.tag]
            self.u[halo] = channel.get()
        u = self.u
        around = u[:-2, INNER] + u[2:, INNER] + u[INNER, :-2] + u[INNER, 2:]
        u[INNER, INNER] += RATE * (around - 4 * u[INNER, INNER])

    def deliver(self, ins, outs):
        for channel in outs:  # none on the root, which has its own block
            channel.put(self.u[INNER, INNER])

    def collect(self, ins, outs):
        if self.root:
            self.whole[block(0, self.grid)] = self.u[INNER, INNER]
        for channel in ins:
            self.whole[block(channel.task, self.grid)] = channel.get()

    def exit(self):
        if not self.root:
            return
        from scipy.ndimage import laplace

        expected = plate()
        for _ in range(self.epochs):
            expected += RATE * laplace(expected, mode="constant", cval=0)
        error = np.abs(self.whole - expected).max()
        print(f"heat: {self.epochs} steps, hottest point {self.whole.max():.3f}, off from SciPy by at most {error:.1e}")
        if not error < 1e-10:
            sys.exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=int, nargs=2, default=(2, 4), metavar=("ROWS", "COLUMNS"), help="grid of tasks")
    parser.add_argument("--epochs", type=int, default=500, help="time steps (%(default)s)")
    options = parser.parse_args()

    rows, columns = options.grid
    job = tg.Job("heat", rows * columns, epochs=options.epochs)
    job.set_task_builder(lambda task_id: Block((rows, columns), options.epochs))
    job.add_topology(tg.topology.Grid((rows, columns)))
    job.add_topology(tg.topology.Star(center=0))
    return job.start()


if __name__ == "__main__":
    sys.exit(main())
