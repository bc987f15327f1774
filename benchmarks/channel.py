"""One-way time of a channel, beside mpi4py's Send/Recv of the same array and a C loop over MPI_Send/MPI_Recv.

    python benchmarks/channel.py

Two ranks. In each epoch a value goes back and forth through a chain of processors, then the same array through mpi4py
and through C, on a communicator of their own: the three alternate, so that a change in the machine's speed hits all of
them. The clock starts when both ranks are there: in the channels after the first trip, elsewhere after a barrier.
Figures are the medians over the rounds, ratios the medians of the ratios round by round.
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from launch import as_ranks, report

import taskgraph as tg

SIZES = [8, 64, 512, 2048, 4096, 8192, 16384, 65536, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26]
WARM_UP = 3


def trips_for(nbytes):
    """Return how often a value goes back and forth in an epoch: few, as each trip has channels of its own."""
    return 10 if nbytes < 65536 else 3


def compiled(directory):
    """Return the C loop, compiled for the MPI that is there."""
    library = Path(directory) / "pingpong.so"
    source = Path(__file__).with_name("pingpong.c")
    subprocess.run(["mpicc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True, timeout=120)
    loop = ctypes.CDLL(str(library)).pingpong
    loop.restype = ctypes.c_double
    loop.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    return loop


def rounds_for(nbytes, most):
    """Return how many epochs to take: fewer for what takes longer."""
    return int(np.clip((1 << 28) / nbytes, 8, most))


class Player(tg.Task):
    """One of two tasks that play a value to each other."""

    def __init__(self, comm, loop, rounds):
        self.comm, self.loop = comm, loop
        self.plan = [nbytes for nbytes in SIZES for _ in range(rounds_for(nbytes, rounds))]

    def init(self, framework):
        self.me, self.other = framework.task_id, 1 - framework.task_id
        self.seconds = {nbytes: [] for nbytes in SIZES}

    def set_epoch(self, ctx, epoch):
        self.nbytes = self.plan[epoch]
        self.trips = trips_for(self.nbytes)
        self.array = np.zeros(self.nbytes, dtype=np.uint8)
        hops = 2 + 2 * self.trips
        if self.me == 0:
            ctx.compose(self.serve, outs=ctx.outbound(1, 0))
            ctx.compose(self.start, ctx.inbound(1, 1), ctx.outbound(1, 2))
        for hop in range(3 if self.me == 0 else 0, hops - 1, 2):
            ctx.compose(self.play, ctx.inbound(self.other, hop), ctx.outbound(self.other, hop + 1))
        if self.me == 0:
            ctx.compose(self.finish, ctx.inbound(1, hops - 1))
        else:
            ctx.compose(self.compare)

    def serve(self, ins, outs):
        outs[0].put(self.array)

    def start(self, ins, outs):
        self.started = time.perf_counter()
        self.play(ins, outs)

    def play(self, ins, outs):
        ins[0].get()
        outs[0].put(self.array)

    def finish(self, ins, outs):
        ins[0].get()
        self.compare(ins, outs, (time.perf_counter() - self.started) / (2 * self.trips))

    def compare(self, ins, outs, channel=0.0):
        mpi4py = self.with_mpi4py(np.zeros_like(self.array))
        floor = self.with_c(np.zeros_like(self.array))
        self.seconds[self.nbytes].append((channel, mpi4py, floor))

    def with_mpi4py(self, buffer):
        self.comm.Barrier()
        start = time.perf_counter()
        for _ in range(self.trips):
            if self.me == 0:
                self.comm.Send(buffer, 1)
                self.comm.Recv(buffer, 1)
            else:
                self.comm.Recv(buffer, 0)
                self.comm.Send(buffer, 0)
        return (time.perf_counter() - start) / (2 * self.trips)

    def with_c(self, buffer):
        from mpi4py import MPI

        self.comm.Barrier()
        comm = MPI._addressof(self.comm)
        return self.loop(comm, self.me == 0, self.other, buffer.ctypes.data, self.nbytes, self.trips)

    def exit(self):
        if self.me == 0:
            show(self.seconds)


def show(seconds):
    """Print the table, then the JSON line. The first rounds of a size warm up and do not count."""
    print(f"{'bytes':>10} {'channel us':>12} {'mpi4py us':>12} {'C us':>12} {'/ mpi4py':>9} {'/ C':>9}")
    over_mpi4py, over_c = {}, {}
    for nbytes, rounds in seconds.items():
        channel, mpi4py, floor = (statistics.median(column) for column in zip(*rounds[WARM_UP:], strict=True))
        over_mpi4py[nbytes] = round(statistics.median(a / b for a, b, _ in rounds[WARM_UP:]), 3)
        over_c[nbytes] = round(statistics.median(a / c for a, _, c in rounds[WARM_UP:]), 3)
        times = "".join(f" {1e6 * value:12.2f}" for value in (channel, mpi4py, floor))
        print(f"{nbytes:10d}{times} {over_mpi4py[nbytes]:9.2f} {over_c[nbytes]:9.2f}")
    report({"channel_over_mpi4py": over_mpi4py, "channel_over_c": over_c})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="rounds of each size (%(default)s)")
    options = parser.parse_args()
    as_ranks(2)

    import mpi4py

    mpi4py.rc.thread_level = "funneled"
    from mpi4py import MPI

    with tempfile.TemporaryDirectory() as directory:
        loop = compiled(directory)
    comm = MPI.COMM_WORLD.Dup()
    epochs = sum(rounds_for(nbytes, options.rounds) for nbytes in SIZES)
    job = tg.Job("channel", 2, epochs=epochs, progress="off", waiting="spin")
    job.set_task_builder(lambda task_id: Player(comm, loop, options.rounds))
    return job.start()


if __name__ == "__main__":
    sys.exit(main())
