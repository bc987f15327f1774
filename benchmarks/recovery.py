"""From the kill of a rank to the commit of the epoch that it was lost in, beside ULFM's own repair of a communicator.

    python benchmarks/recovery.py

Each job loses its ranks one after the other, by SIGKILL in the middle of an epoch, down to two; a job of two loses one.
What is measured is the time from the kill to the moment at which the epoch, run again, is committed, less an ordinary
epoch; and on the way, until the last of the survivors knows, has the decision, and has restored its state. In turn with
these jobs run jobs in which the survivors of the same kills revoke and shrink their communicator with ULFM. All clocks
are the machine's monotonic one.
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
from taskgraph import trace
from taskgraph.testing import mpirun

EVERY = 20  # epochs between two kills
FIRST = 20
PHASES = {"recovery.left": "known", "recovery.decided": "agreed", "recovery.restored": "restored"}


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


def note_phases(directory):
    """Note when this rank comes to each phase of a recovery."""
    path = Path(directory) / f"phases-{os.environ['OMPI_COMM_WORLD_RANK']}"
    notes = path.open("a", buffering=1)

    def hook(point, subject):
        if point in PHASES:
            notes.write(f"{PHASES[point]} {time.monotonic_ns()}\n")

    trace.hook = hook


def run_job(directory, ranks, victims, nbytes):
    """Be a rank of the job that is killed."""
    note_phases(directory)
    job = tg.Job("recovery", ranks, epochs=FIRST + EVERY * len(victims) + 5, progress="off")
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
            # Nobody sends: the one after the victim is told, the others revoked.
            now.Recv(buffer, (now.rank - 1) % now.size, 1)
        except MPI.Exception:
            now.Revoke()
        now = now.Shrink()
        now.Set_errhandler(MPI.ERRORS_RETURN)
        now.Barrier()
        if now.rank == 0:
            (Path(directory) / f"shrunk-{epoch}").write_text(str(time.monotonic_ns()))
    sys.stdout.flush()
    os._exit(0)


def launch(kind, ranks, victims, nbytes=0):
    """Run one job; return what its ranks noted, in milliseconds: single moments, and those of each phase."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = [__file__, "--be", kind, directory, str(ranks), json.dumps(victims), str(nbytes)]
        command = mpirun.command(ranks, arguments, ulfm=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        notes, phases = {}, []
        for path in Path(directory).iterdir():
            if path.name.startswith("phases"):
                lines = [line.split() for line in path.read_text().splitlines()]
                phases.append([(phase, int(at) / 1e6) for phase, at in lines])
            else:
                notes[path.name] = int(path.read_text()) / 1e6
    return notes, phases


def times_of_ulfm(notes, victims):
    """Return how long each repair took, in milliseconds."""
    return [notes[f"shrunk-{epoch}"] - notes[f"kill-{epoch}"] for epoch in victims]


def times_of_job(notes, phases, victims):
    """Return when each recovery had come how far, in milliseconds from the kill."""
    found = []
    for epoch in victims:
        killed, committed = notes[f"kill-{epoch}"], notes[f"committed-{epoch}"]
        ordinary = notes[f"committed-{epoch + 1}"] - committed
        reached = {
            name: max(at for of_rank in phases for phase, at in of_rank if phase == name and killed < at < committed)
            for name in PHASES.values()
        }
        found.append({name: at - killed for name, at in reached.items()} | {"commit": committed - killed - ordinary})
    return found


def summary(found):
    """Return median, 95th percentile and maximum."""
    ordered = sorted(found)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "max": round(ordered[-1], 2),
    }


def compare(ranks, nbytes, kills):
    """Alternate the two kinds of jobs until there were so many kills; return what they took."""
    rng = np.random.default_rng(0)
    ours, ulfm = [], []
    while len(ours) < kills:
        chosen = rng.permutation(ranks)[: max(1, min(ranks - 2, kills - len(ours)))]
        victims = {FIRST + EVERY * at: int(rank) for at, rank in enumerate(chosen)}
        ours += times_of_job(*launch("job", ranks, victims, nbytes), victims)
        ulfm += times_of_ulfm(launch("ulfm", ranks, victims)[0], victims)
    by_phase = {name: summary([one[name] for one in ours]) for name in (*PHASES.values(), "commit")}
    return {"recovery_ms": by_phase.pop("commit"), "ulfm_ms": summary(ulfm), "until_ms": by_phase, "kills": len(ours)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="kills of each kind (%(default)s)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 2], help="numbers of ranks (%(default)s)")
    parser.add_argument("--mib", type=int, default=64, help="state of a task, where it is large (%(default)s)")
    parser.add_argument("--be", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        kind, directory, ranks, victims, nbytes = options.be
        victims = {int(epoch): rank for epoch, rank in json.loads(victims).items()}
        return run_job(directory, int(ranks), victims, int(nbytes)) if kind == "job" else run_ulfm(directory, victims)
    figures = {}
    for ranks in options.ranks:
        for nbytes, name in ((64, "64 B"), (options.mib << 20, f"{options.mib} MiB")):
            found = compare(ranks, nbytes, options.kills)
            print(f"\n{ranks} ranks, {name} a task, {found['kills']} kills; ms from the kill   median     p95     max")
            for what, of in (*found["until_ms"].items(), ("first commit, less an epoch", found["recovery_ms"])):
                print(f"    {what:<48}{of['p50']:>8.1f}{of['p95']:>8.1f}{of['max']:>8.1f}")
            of = found["ulfm_ms"]
            print(
                f"    {'ULFM: shrunken communicator':<48}{of['p50']:>8.1f}{of['p95']:>8.1f}{of['max']:>8.1f}",
                flush=True,
            )
            figures[f"{ranks} ranks, {name}"] = found
    first = next(iter(figures.values()))
    report({"recovery_ms": first["recovery_ms"], "ulfm_ms": first["ulfm_ms"], "all": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
