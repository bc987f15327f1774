"""What it costs that checkpoints are written: 64 MiB of state a task, all of it changing, beside 200 ms of compute.

    python benchmarks/checkpoint.py [--at DIRECTORY]

Two ranks that count as hosts of their own, each with one task. Jobs that write a checkpoint every fifth epoch and jobs
that write none alternate; both protect their state. What an epoch takes longer is the cost of the writing, shared by
five epochs; beside it stand how long a checkpoint takes from safe to complete, and a plain write and fsync of as much.
"""

import argparse
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from launch import report

import taskgraph as tg
from taskgraph.testing import mpirun

NBYTES = 64 << 20
COMPUTE_S = 0.2
EVERY = 5
EPOCHS = 8 * EVERY
TASKS = 2


class Worker(tg.Task):
    """Changes its state, then computes until the time is up."""

    def init(self, framework):
        self.id = framework.task_id
        self.state = framework.protect("state", np.zeros(NBYTES // 8))
        self.starts = []

    def set_epoch(self, ctx, epoch):
        self.starts.append(time.perf_counter())
        ctx.compose(self.compute)

    def compute(self, ins, outs):
        end = time.perf_counter() + COMPUTE_S
        self.state += 1
        while time.perf_counter() < end:
            pass

    def exit(self):
        if self.id == 0:
            print("took", json.dumps(np.diff(self.starts)[EVERY:].tolist()), flush=True)


def run_job(place):
    """Be a rank."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("taskgraph.run.checkpoints.rounds").setLevel(logging.INFO)
    job = tg.Job("checkpoint", TASKS, epochs=EPOCHS, ranks_per_host=1, progress="off",
                 checkpoint=place, checkpoint_every=EVERY, resume="never")  # fmt: skip
    job.set_task_builder(lambda task_id: Worker())
    return job.start()


def launch(place):
    """Run one job: return the seconds of its epochs, and the milliseconds of its checkpoints."""
    arguments = [__file__, "--be", json.dumps(place)]
    done = subprocess.run(mpirun.command(TASKS, arguments), capture_output=True, text=True, timeout=300)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    took = json.loads(re.search(r"^took (.*)$", done.stdout, re.MULTILINE)[1])
    return took, [float(ms) for ms in re.findall(r"^checkpoint=\S+ bytes=\d+ ms=([\d.]+)", done.stderr, re.MULTILINE)]


def floor(place):
    """Return the milliseconds of writing as much to a file, fsync included: the least of several."""
    block, path, took = np.ones(TASKS * NBYTES // 8), Path(place, "floor"), []
    for _ in range(3):
        start = time.perf_counter()
        with open(path, "wb") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
        took.append(time.perf_counter() - start)
        path.unlink()
    return 1e3 * min(took)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="jobs of each kind (%(default)s)")
    parser.add_argument("--at", help="directory to write to (a temporary one)")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        return run_job(json.loads(options.be))
    without, with_them, costs = [], [], []
    with tempfile.TemporaryDirectory(dir=options.at) as place:
        for number in range(options.rounds):
            without += launch(None)[0]
            took, ms = launch(f"{place}/{number}")
            with_them += took
            costs += ms
        plain_ms = floor(place)
    base, mean = (1e3 * statistics.mean(took) for took in (without, with_them))
    print(f"{os.cpu_count()} cores; epochs of {base:.1f} ms without checkpoints, {mean:.1f} ms with one every {EVERY}")
    print(f"a checkpoint of {TASKS * NBYTES >> 20} MiB: the epochs wait {EVERY * (mean - base):.1f} ms for it; "
          f"complete {statistics.median(costs):.0f} ms after it is safe (most: {max(costs):.0f}); "
          f"a plain write: {plain_ms:.0f} ms")  # fmt: skip
    report({"epoch_ms": base, "with_ms": mean, "complete_ms": statistics.median(costs), "plain_write_ms": plain_ms})
    return 0


if __name__ == "__main__":
    sys.exit(main())
