"""Jobs whose tasks look at the memory of what they put and got. Run as ``memory.py NAME`` over real MPI."""

from __future__ import annotations

import sys

import numpy as np

import taskgraph as tg

LARGE = 100_000
EPOCHS = 40


def refuses_writes(array: np.ndarray) -> bool:
    try:
        array[...] = 0
    except ValueError:
        return True
    return False


class Lender(tg.Task):
    """Puts arrays of every kind, and changes those that it may change right after."""

    def init(self, framework):
        self.state = framework.protect("state", np.full(LARGE, 1.0))
        self.large = np.full(LARGE, 1.0)
        self.view = np.full(2 * LARGE, 1.0)[LARGE:]
        self.read_only = np.full(LARGE, 1.0)
        self.read_only.flags.writeable = False
        self.epochs = 0

    def set_epoch(self, ctx, epoch):
        for array in (self.large, self.view, self.state):
            assert array.flags.writeable
            array[:] = epoch + 1.0
        assert not self.read_only.flags.writeable
        self.number = epoch + 1.0
        tags = ("first", "second", "view", "read-only", "copy", "state", "slice", "strided", "small", "got")
        outs = {tag: ctx.outbound(1, tag) for tag in tags}
        ctx.compose(self.put_to_itself, outs=ctx.outbound(0, "own"))
        ctx.compose(self.put, ins=ctx.inbound(0, "own"), outs=list(outs.values()))

    def put_to_itself(self, ins, outs):
        own = np.full(LARGE, self.number)
        outs[0].put(own)
        assert own.flags.writeable
        own[:] = -1

    def put(self, ins, outs):
        to = {out.tag: out for out in outs}
        to["first"].put(self.large)
        assert not self.large.flags.writeable
        assert refuses_writes(self.large)
        to["second"].put(self.large)
        to["view"].put(self.view)
        assert refuses_writes(self.view)
        to["read-only"].put(self.read_only)
        for tag, array in (
            ("state", self.state),
            ("slice", self.state[: LARGE // 2]),
            ("strided", np.full(2 * LARGE, self.number)[::2]),
            ("small", np.full(10, self.number)),
        ):
            to[tag].put(array)
            assert array.flags.writeable
            array[:] = -1 if tag != "state" else self.number
        copied = np.full(LARGE, self.number)
        to["copy"].put(copied, copy=True)
        copied[:] = -1
        to["got"].put(ins[0].get())  # and the last reference goes before it has left

    def committed(self, epoch):
        assert self.large.flags.writeable
        self.epochs += 1

    def exit(self):
        assert self.epochs == EPOCHS


class Keeper(tg.Task):
    """Keeps every other value that it got, or only a part of it, and looks at them when all is over."""

    def init(self, framework):
        self.kept = []
        self.addresses = set()

    def set_epoch(self, ctx, epoch):
        tags = ("first", "second", "view", "read-only", "copy", "state", "slice", "strided", "small", "got")
        ctx.compose(self.get, ins=[ctx.inbound(0, tag) for tag in tags])
        self.number = epoch + 1.0

    def get(self, ins, outs):
        arrays = {channel.tag: channel.get() for channel in ins}
        for tag, array in arrays.items():
            expected = 1.0 if tag == "read-only" else self.number
            assert (array == expected).all(), (tag, array, expected)
            assert array.flags.writeable
            assert array.flags.owndata
        assert not np.may_share_memory(arrays["first"], arrays["second"])
        if self.number % 2:
            self.kept.append((self.number, arrays["first"]))
            self.kept.append((self.number, arrays["view"][1:100].reshape(3, 33).T))
            self.kept.append((self.number, memoryview(arrays["copy"])[5:10]))
        for tag in ("second", "state"):
            self.addresses.add(arrays[tag].ctypes.data)
            arrays[tag][:] = -7  # it is its own

    def exit(self):
        for number, array in self.kept:
            assert (np.asarray(array) == number).all()
        assert len(self.addresses) < 1.5 * EPOCHS, "memory of received arrays is not used again"


class Giant(tg.Task):
    """One array of more bytes than an int holds, from one rank to the other."""

    SIZE = 2**31 + 5
    MARKS = (0, 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, SIZE - 1)

    def __init__(self, sends: bool) -> None:
        self.sends = sends

    def set_epoch(self, ctx, epoch):
        if self.sends:
            ctx.compose(self.send, outs=ctx.outbound(1, "giant"))
        else:
            ctx.compose(self.receive, ins=ctx.inbound(0, "giant"))

    def send(self, ins, outs):
        giant = np.zeros(self.SIZE, np.uint8)
        giant[list(self.MARKS)] = range(1, len(self.MARKS) + 1)
        outs[0].put(giant)

    def receive(self, ins, outs):
        giant = ins[0].get()
        assert (giant.dtype, giant.shape) == (np.uint8, (self.SIZE,))
        assert giant[list(self.MARKS)].tolist() == list(range(1, len(self.MARKS) + 1))
        assert np.count_nonzero(giant) == len(self.MARKS)


def lending() -> tg.Job:
    job = tg.Job("lending", num_tasks=2, epochs=EPOCHS)
    job.set_task_builder(lambda task: Keeper() if task else Lender())
    return job


def giant() -> tg.Job:
    job = tg.Job("giant", num_tasks=2, epochs=1)
    job.set_task_builder(lambda task: Giant(sends=task == 0))
    return job


if __name__ == "__main__":
    from programs import bare

    print("status", bare.start({"lending": lending, "giant": giant}[sys.argv[1]]()))
