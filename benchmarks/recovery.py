"""From the kill of a rank to the commit of the epoch that it was lost in, beside ULFM's own repair of a communicator.

    python benchmarks/recovery.py

Each job loses its ranks one after the other, by SIGKILL in the middle of an epoch, down to two. What is measured is the
time from the kill to the moment at which the epoch, run again, is committed, less an ordinary epoch. In turn with these
jobs run jobs in which the survivors of the same kills revoke and shrink their communicator with ULFM. All clocks are
the machine's monotonic one.
"""

import argparse
import json
import os
import signal
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

EVERY = 20  # epochs between two kills
FIRST = 20


class Ring(tg.Task):
    """Passes a value round, and keeps state of a given size."""

    def __init__(self, directory, victims, nbytes):
        self.directory, self.victims, self.nbytes = directory, victims, nbytes

    def init(self, framework):
        self.id, self.num_tasks = framework.task_id, framework.num_tasks
        self.state = framework.protect("state", np.zeros(self.nbytes // 8))
        self.rank = int(os.environ["OMPI_COMM_WORLD_RANK"])

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        after, before = (self.id + 1) % self.num_tasks, (self.id - 1) % self.num_tasks
        ctx.compose(self.give, outs=ctx.outbound(after, "x"))
        ctx.compose(self.take, ctx.inbound(before, "x"))

    def give(self, ins, outs):
        if self.victims.get(self.epoch) == self.rank:
            self.note(f"kill-{self.epoch}")
            os.kill(os.getpid(), signal.SIGKILL)
        outs[0].put(self.state[:1])

    def take(self, ins, outs):
        self.state[0] += ins[0].get()[0] + 1

    def committed(self, epoch):
        if self.id == 0 and (epoch in self.victims or epoch - 1 in self.victims or epoch + 1 in self.victims):
            self.note(f"committed-{epoch}")

    def note(self, name):
        path = Path(self.directory) / name
        if not path.exists():  # an epoch may be committed again after a failure
            path.write_text(str(time.monotonic_ns()))


def run_job(directory, victims, nbytes):
    """Be a rank of the job that is killed."""
    job = tg.Job("recovery", len(victims) + 2, epochs=FIRST + EVERY * len(victims) + 5, progress="off")
    job.set_task_builder(lambda task_id: Ring(directory, victims, nbytes))
    return job.start()


def run_ulfm(directory, victims):
    """Be a rank of the job that repairs its communicator with ULFM."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    world.Set_errhandler(MPI.ERRORS_RETURN)
    me, now = world.rank, world
    buffer = np.zeros(1)
    for epoch, victim in victims.items():
        now.Barrier()
        if me == victim:
            (Path(directory) / f"kill-{epoch}").write_text(str(time.monotonic_ns()))
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            now.Recv(
                buffer, (now.rank - 1) % now.size, 1
            )  # nobody sends: the one after the victim is told, the others revoked
        except MPI.Exception:
            now.Revoke()
        now = now.Shrink()
        now.Set_errhandler(MPI.ERRORS_RETURN)
        now.Barrier()
        if now.rank == 0:
            (Path(directory) / f"shrunk-{epoch}").write_text(str(time.monotonic_ns()))
    sys.stdout.flush()
    os._exit(0)


def launch(kind, victims, nbytes=0):
    """Run one job; return what its ranks noted, in seconds."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = [__file__, "--be", kind, directory, json.dumps(victims), str(nbytes)]
        command = mpirun.command(len(victims) + 2, arguments, ulfm=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        notes = {path.name: int(path.read_text()) / 1e9 for path in Path(directory).iterdir()}
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return notes


def times(notes, victims, kind):
    """Return the milliseconds of each recovery."""
    found = []
    for epoch in victims:
        if kind == "ulfm":
            found.append(1e3 * (notes[f"shrunk-{epoch}"] - notes[f"kill-{epoch}"]))
        else:
            ordinary = notes[f"committed-{epoch + 1}"] - notes[f"committed-{epoch}"]
            found.append(1e3 * (notes[f"committed-{epoch}"] - notes[f"kill-{epoch}"] - ordinary))
    return found


def summary(found):
    """Return median, 95th percentile and maximum."""
    ordered = sorted(found)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "max": round(ordered[-1], 2),
        "kills": len(ordered),
    }


def compare(ranks, nbytes, kills):
    """Alternate the two kinds of jobs until there were so many kills."""
    rng = np.random.default_rng(0)
    ours, ulfm = [], []
    while len(ours) < kills:
        chosen = rng.permutation(ranks)[: max(1, ranks - 2)]
        victims = {FIRST + EVERY * at: int(rank) for at, rank in enumerate(chosen)}
        ours += times(launch("job", victims, nbytes), victims, "job")
        ulfm += times(launch("ulfm", victims), victims, "ulfm")
    return summary(ours), summary(ulfm)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="kills of each kind (%(default)s)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 3], help="numbers of ranks (%(default)s)")
    parser.add_argument("--be", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        kind, directory, victims, nbytes = options.be
        victims = {int(epoch): rank for epoch, rank in json.loads(victims).items()}
        return run_job(directory, victims, int(nbytes)) if kind == "job" else run_ulfm(directory, victims)
    figures = {}
    for ranks in options.ranks:
        for nbytes, name in ((64, "64 B"), (64 << 20, "64 MiB")):
            ours, ulfm = compare(ranks, nbytes, options.kills)
            print(f"{ranks} ranks, {name} a task: {ours} ms; ULFM to a shrunken communicator: {ulfm} ms", flush=True)
            figures[f"{ranks} ranks, {name}"] = {"recovery_ms": ours, "ulfm_ms": ulfm}
    first = next(iter(figures.values()))
    report({**first, "all": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
