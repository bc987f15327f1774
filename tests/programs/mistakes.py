"""A ring of tasks, one of which makes the mistake that is named on the command line, in epoch 3."""

import contextlib
import ctypes
import os
import signal
import sys
import time

import taskgraph as tg

MISTAKE = sys.argv[1]
LINGER_S = 30.0


class Wordless(Exception):
    def __str__(self):
        return str(1 / 0)


class Unreadable:
    def __reduce__(self):
        return dict.__getitem__, ({}, "no such thing")


class Player(tg.Task):
    def init(self, framework):
        self.me, self.num_tasks = framework.task_id, framework.num_tasks
        self.wrong = self.is_done = False
        if MISTAKE.startswith("save"):
            framework.protect("notes", save=self.save, load=lambda data: None)

    def save(self):
        if self.wrong and MISTAKE == "save":
            raise OSError("nothing can be saved")
        return "text" if self.wrong else b"bytes"

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        self.wrong = epoch == 3 and self.me == 1
        after, before = (self.me + 1) % self.num_tasks, (self.me - 1) % self.num_tasks
        if MISTAKE == "linkage" and self.wrong:
            ctx.neighbors("nobody")
        self.inbound = ctx.inbound(before, "x")
        ctx.compose(self.give, outs=ctx.outbound(after, "x"))
        if MISTAKE == "other tag" and self.wrong:
            self.inbound = ctx.inbound(before, "y")
        if MISTAKE == "no receiver" and self.wrong:
            return
        if MISTAKE == "cycle" and epoch == 3:
            ctx.compose(self.take, self.inbound, ctx.outbound(after, "z"))
            ctx.compose(self.take, ctx.inbound(before, "z"))
            ctx.compose(self.give, outs=ctx.outbound(after, "late"))
            ctx.compose(self.take, ctx.inbound(before, "late"), ctx.outbound(after, "round"))
            ctx.compose(self.take, ctx.inbound(after, "back"), ctx.outbound(before, "back"))
            return
        ctx.compose(self.take, self.inbound)
        if MISTAKE == "late get" and self.wrong:
            self.inbound.get()

    def give(self, ins, outs):
        if self.wrong and MISTAKE == "raises":
            raise ValueError("a mistake of mine")
        if self.epoch == 3 and MISTAKE == "all raise":
            raise ValueError("a mistake of all")
        if self.wrong and MISTAKE == "leaves":
            sys.exit(7)
        if self.wrong and MISTAKE == "no put":
            return
        if self.wrong and MISTAKE == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(LINGER_S)
        if self.wrong and MISTAKE == "memoryview":
            outs[0].put(memoryview(b"abc"))
        if self.wrong and MISTAKE == "no pickle":
            outs[0].put(number for number in range(3))
        if self.wrong and MISTAKE == "no words":
            raise Wordless
        if self.wrong and MISTAKE == "no message":
            raise ValueError
        if self.wrong and MISTAKE == "forks":
            self.fork()
            if self.is_done:
                return
        outs[0].put(Unreadable() if self.wrong and MISTAKE == "no unpickling" else self.epoch)
        if self.wrong and MISTAKE == "second put":
            outs[0].put(self.epoch)
        if self.wrong and MISTAKE == "second put, caught":
            with contextlib.suppress(Exception):
                outs[0].put(self.epoch)

    def fork(self):
        for what in ("leaves", "raises", "puts", "comes back"):
            child = os.fork()
            if child:
                _, status = os.waitpid(child, 0)
                print("the child is over:", os.waitstatus_to_exitcode(status), flush=True)
            elif what == "leaves":
                sys.exit(7)
            elif what == "raises":
                raise ValueError("of the child")
            elif what == "puts":
                return
            else:
                self.is_done = True
                return

    def take(self, ins, outs):
        ins[0].get()
        if MISTAKE == "raises beside C code" and self.epoch == 3:
            if self.me == 0:
                print("in C", flush=True)
                ctypes.PyDLL(None).sleep(int(LINGER_S))
            if self.me == 1:
                time.sleep(0.5)
                raise ValueError("a mistake of mine")
        for channel in outs:
            channel.put(0)


def build(task_id):
    return None if MISTAKE == "no task" else Player()


job = tg.Job("mistakes", 3, epochs=6)
job.set_task_builder(build)
status = job.start()
if MISTAKE == "none":
    print(f"status {status}", flush=True)
sys.exit(status)
