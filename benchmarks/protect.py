"""What it costs an epoch that its state is protected: 64 MiB of it, beside 100 ms of compute.

    python benchmarks/protect.py

Two ranks that count as hosts of their own. Jobs in which nothing, all or one contiguous percent of the state changes in
an epoch, without and with a backup on the other host, and jobs that protect nothing, alternate. The time that an epoch
waits is what it takes longer than the unprotected one; beside it stand a memcpy, a memcmp and the checksum of the same
memory, timed in the same run.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from launch import report

import taskgraph as tg
from taskgraph.testing import mpirun

NBYTES = 64 << 20
COMPUTE_S = 0.1
EPOCHS = 24
WARM_UP = 4
KINDS = {"unprotected": 0.0, "nothing changes": 0.0, "all changes": 1.0, "1 % changes": 0.01}


class Worker(tg.Task):
    """Changes its state, then computes until the time is up."""

    def __init__(self, kind, directory):
        self.kind, self.directory = kind, directory

    def init(self, framework):
        self.id = framework.task_id
        self.state = np.zeros(NBYTES // 8)
        if self.kind != "unprotected":
            self.state = framework.protect("state", self.state)
        self.changing = self.state[: int(KINDS[self.kind] * len(self.state))]
        self.starts = []

    def set_epoch(self, ctx, epoch):
        self.starts.append(time.perf_counter())
        ctx.compose(self.compute)

    def compute(self, ins, outs):
        end = time.perf_counter() + COMPUTE_S
        self.changing += 1
        while time.perf_counter() < end:
            pass

    def exit(self):
        if self.id == 0:
            took = float(statistics.median(np.diff(self.starts)[WARM_UP:]))
            (Path(self.directory) / "took").write_text(repr(took))


def count_copies(directory):
    """Let this rank note how many bytes its copies have, after the first few epochs."""
    from taskgraph.run.state.host_snapshots import HostSnapshots

    outgoing = HostSnapshots.outgoing

    def counted(self, order):
        frames = outgoing(self, order)
        if order.slot.boundary > WARM_UP and order.slot.task == 0:
            with open(Path(directory) / "sent", "a", encoding="ascii") as file:
                print(sum(len(frame) for frame in frames), file=file)
        return frames

    HostSnapshots.outgoing = counted


def run_job(kind, backups, directory):
    """Be a rank."""
    count_copies(directory)
    job = tg.Job("protect", 2, epochs=EPOCHS, backups=backups, ranks_per_host=1, progress="off")
    job.set_task_builder(lambda task_id: Worker(kind, directory))
    return job.start()


def launch(kind, backups):
    """Run one job: return the seconds of an epoch, and the bytes that travelled to the backup in one."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = [__file__, "--be", json.dumps([kind, backups, directory])]
        done = subprocess.run(mpirun.command(2, arguments), capture_output=True, text=True, timeout=300)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        sent = Path(directory) / "sent"
        counts = [int(line) for line in sent.read_text().split()] if sent.exists() else [0]
        return float((Path(directory) / "took").read_text()), statistics.median(counts)


def floors():
    """Return the milliseconds of memcpy, memcmp and a checksum of so much memory: the least of several."""
    libc = ctypes.CDLL(None)
    one, other = np.ones(NBYTES // 8), np.ones(NBYTES // 8)
    calls = {
        "memcpy": lambda: np.copyto(other, one),
        "memcmp": lambda: libc.memcmp(ctypes.c_void_p(one.ctypes.data), ctypes.c_void_p(other.ctypes.data), NBYTES),
        "crc32": lambda: zlib.crc32(one),
    }
    return {name: round(1e3 * min(_timed(call) for _ in range(9)), 2) for name, call in calls.items()}


def _timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="jobs of each kind (%(default)s)")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        return run_job(*json.loads(options.be))
    cases = [(kind, backups) for kind in KINDS for backups in ((0,) if kind == "unprotected" else (0, 1))]
    found = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case in cases:
            found[case].append(launch(*case))
    figures = {"floors_ms": floors()}
    base = statistics.median(took for took, _ in found["unprotected", 0])
    print(
        f"{os.cpu_count()} cores; an epoch without protection: {1e3 * base:.1f} ms; of 64 MiB: {figures['floors_ms']}"
    )
    for (kind, backups), runs in found.items():
        waits = 1e3 * (statistics.median(took for took, _ in runs) - base)
        sent = statistics.median(count for _, count in runs) / NBYTES
        print(f"{kind:16} backups={backups}: the epoch waits {waits:6.1f} ms; {100 * sent:6.2f} % of the state sent")
        figures[f"{kind}, backups={backups}"] = {"waits_ms": round(waits, 2), "sent_over_state": round(sent, 4)}
    report(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
