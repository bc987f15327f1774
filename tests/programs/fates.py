"""A ring of tasks whose ranks meet their fate: ``fates.py EPOCHS PAUSE_S RANK:EPOCH:FATE ...``.

Each epoch takes at least PAUSE_S seconds on every rank. At the end task 0 prints the state of all tasks, which depends
on every epoch of every task.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import re
import signal
import socket
import stat
import sys
import threading
import time
from pathlib import Path

import numpy as np

import taskgraph as tg

NAME = os.environ.get("JOB", f"fates-{os.getppid()}")
RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
EPOCHS, PAUSE_S = int(sys.argv[1]), float(sys.argv[2])
FATES = {(int(rank), int(epoch)): fate for rank, epoch, fate in (word.split(":") for word in sys.argv[3:])}
TASKS = 4

logging.basicConfig(format="%(created).4f %(message)s")
logging.getLogger("taskgraph.run.rank.timeline").setLevel(logging.INFO)
faulthandler.disable()


def say(*words: object) -> None:
    print(f"{time.time():.4f} rank {RANK}", *words, flush=True)


def host() -> Path:
    """Return the directory of this rank's host: the one with a file that names this process."""
    for directory in Path("/dev/shm").glob(f"taskgraph-*-{NAME}-*-[0-9]*"):
        if any(path.read_text().split()[0] == str(os.getpid()) for path in directory.glob("ranks/*")):
            return directory
    raise AssertionError("no host has this rank")


def keeper() -> int:
    """Return the pid of the keeper of this rank's host."""
    return int((host() / "keeper").read_text().split()[0])


def cut_off() -> None:
    """Lose etcd for this rank and the keeper of its host, from now on."""
    say("keeper", keeper())
    os.kill(keeper(), signal.SIGSTOP)
    ports = {int(endpoint.rpartition(":")[2]) for endpoint in re.findall(r"[\d.]+:\d+", (host() / "etcd").read_text())}
    threading.Thread(target=_cut, args=(ports,), daemon=True).start()


def _cut(ports: set[int]) -> None:
    while True:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                    with socket.socket(fileno=os.dup(int(name))) as found:
                        if found.family != socket.AF_UNIX and found.getpeername()[1] in ports:
                            found.shutdown(socket.SHUT_RDWR)
        time.sleep(0.002)


def hold_the_gil(seconds: str) -> None:
    ctypes.PyDLL(None).usleep(int(float(seconds) * 1e6))
    say("held")


def meet(fate: str) -> None:
    say("meets", fate)
    kind, _, argument = fate.partition("=")
    if kind == "exit":
        os._exit(int(argument))
    elif kind == "signal":
        os.kill(os.getpid(), int(argument))
    elif kind == "raise":
        raise RuntimeError("an error of the user")
    elif kind == "crash":
        ctypes.string_at(0)
    elif kind == "hold":
        hold_the_gil(argument)
    elif kind == "with-keeper":
        os.kill(keeper(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "sidecar":
        from taskgraph.run.unit.schedule import Schedule

        def broken(*_: object) -> float:
            raise RuntimeError("a fault of ours")

        Schedule.turn = broken  # type: ignore[method-assign]
    elif kind == "sleep":
        time.sleep(float(argument))
    elif kind == "cut":
        cut_off()
    elif kind == "leave":
        LEAVE.set()
        time.sleep(60)


class Node(tg.Task):
    def init(self, framework):
        self.id = framework.task_id
        self.state = framework.protect("state", np.zeros(TASKS))

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        after, before = (self.id + 1) % TASKS, (self.id - 1) % TASKS
        ctx.compose(self.give, outs=ctx.outbound(after, "x"))
        ctx.compose(self.take, ctx.inbound(before, "x"))

    def give(self, ins, outs):
        if (fate := FATES.pop((RANK, self.epoch), None)) is not None:
            meet(fate)
        time.sleep(PAUSE_S)
        outs[0].put(self.state)

    def take(self, ins, outs):
        self.state[:] = np.roll(ins[0].get(), 1) * 0.5 + self.epoch + self.id
        if self.id == 0:
            say("epoch", self.epoch)

    def exit(self):
        if self.id == 0:
            say("result", self.state.tolist())


def run() -> int:
    job = tg.Job(NAME, TASKS, epochs=EPOCHS, backups=1, progress="off")
    job.set_task_builder(lambda task_id: Node())
    status = job.start()
    say("status", status)
    return status


LEAVE = threading.Event()
if "leave" in [fate for (rank, _), fate in FATES.items() if rank == RANK]:
    threading.Thread(target=run, daemon=True).start()
    LEAVE.wait()
else:
    sys.exit(run())
