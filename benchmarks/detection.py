"""How long it takes until every other rank knows that one is lost, by how it was lost.

    python benchmarks/detection.py

Each job loses one rank in the middle of an epoch: by SIGKILL, by `os._exit(3)`, by a segmentation fault, by SIGSTOP.
What is measured is the time from that moment to the one at which the last of the survivors has heard of it. In one more
job a rank holds the GIL in a call of C for a long time, and is to be left alone.
"""

import argparse
import ctypes
import logging
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
from launch import report

import taskgraph as tg
from taskgraph.testing import mpirun

RANKS, VICTIM, AT, EPOCHS = 4, 2, 3000, 3020
HEARD = re.compile(r"lost at ([\d.]+)|rank=(\d+) phase=known .* heard at ([\d.]+)")


def hold_gil(seconds):
    """Stay in a call of C that does not let go of the GIL."""
    ctypes.PyDLL(None).usleep(int(1e6 * seconds))


class Ring(tg.Task):
    """Passes a value round; one rank is lost over it."""

    def __init__(self, how, seconds):
        self.how, self.seconds = how, seconds

    def init(self, framework):
        self.id, self.num_tasks = framework.task_id, framework.num_tasks
        self.state = framework.protect("state", np.zeros(8))

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        after, before = (self.id + 1) % self.num_tasks, (self.id - 1) % self.num_tasks
        ctx.compose(self.give, outs=ctx.outbound(after, "x"))
        ctx.compose(self.take, ctx.inbound(before, "x"))

    def give(self, ins, outs):
        if self.epoch == AT and os.environ["OMPI_COMM_WORLD_RANK"] == str(VICTIM):
            self.lose()
        outs[0].put(self.state)

    def take(self, ins, outs):
        self.state[:] = (self.state + ins[0].get() + 1) % 1000

    def lose(self):
        print(f"lost at {time.time():.6f}", flush=True)
        match self.how:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "segfault":
                ctypes.string_at(0)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "gil":
                hold_gil(self.seconds)


def run_job(how, seconds):
    """Be a rank."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s, heard at %(created).6f"))
    logging.getLogger("taskgraph.run.rank.timeline").addHandler(handler)
    logging.getLogger("taskgraph.run.rank.timeline").setLevel(logging.INFO)
    job = tg.Job("detection", RANKS, epochs=EPOCHS, progress="off")
    job.set_task_builder(lambda task_id: Ring(how, seconds))
    return job.start()


def launch(how, seconds):
    """Run one job; return the milliseconds until each survivor knew."""
    command = mpirun.command(RANKS, [__file__, "--be", how, str(seconds)], ulfm=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 + seconds)
    # The status of the launcher is that of the lost rank.
    if how != "gil" and "1 failure survived" not in done.stdout + done.stderr:
        sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    found = HEARD.findall(done.stdout)
    lost_at = next(float(lost) for lost, _, _ in found if lost)
    return [1e3 * (float(at) - lost_at) for _, rank, at in found if rank and int(rank) != VICTIM]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="jobs of each kind (%(default)s)")
    parser.add_argument("--gil", type=int, default=30, help="seconds to hold the GIL for (%(default)s)")
    parser.add_argument("--be", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        return run_job(options.be[0], int(options.be[1]))
    figures = {}
    for how in ("kill", "exit", "segfault", "stop"):
        last = []
        for _ in range(options.runs):
            known = launch(how, 0)
            if len(known) != RANKS - 1:
                sys.exit(f"{how}: {len(known)} of {RANKS - 1} survivors heard of it")
            last.append(max(known))
        figures[how] = {"p50": round(statistics.median(last), 2), "max": round(max(last), 2)}
        print(f"{how}: known to all after {figures[how]} ms in {len(last)} jobs", flush=True)
    accused = len(launch("gil", options.gil))
    print(f"a rank that held the GIL for {options.gil} s was called dead by {accused} ranks", flush=True)
    report({"known_to_all_ms": figures, "accused_with_the_gil": accused})
    return 1 if accused else 0


if __name__ == "__main__":
    sys.exit(main())
