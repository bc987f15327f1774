"""One rank puts small arrays, the other keeps, shares and changes what it got: still each arrives as it was put."""

from __future__ import annotations

import sys
import weakref

import numpy as np

import taskgraph as tg

EPOCHS = 60


def put_in(epoch: int) -> np.ndarray:
    """Return what is put in an epoch: the same kind of array for a while, then another."""
    kinds = (
        np.full(4, epoch, np.float64),
        np.full(4, epoch, np.int64),
        np.full((2, 2), epoch, np.float64),
        np.full((4, 1), epoch, np.float64),
        np.full(2, epoch, np.complex128),
        np.full(32, epoch, np.uint8),
        np.full((1, 0, 3), epoch, np.float64),
        np.array(epoch),
        np.full(4, epoch, ">f8"),
        np.full(4, epoch, "M8[s]"),
        np.asfortranarray(np.full((2, 3), epoch, np.float64)),
    )
    return kinds[epoch // 3 % len(kinds)] if epoch >= EPOCHS // 2 else kinds[0]


def changed_shape(array):
    array.shape = (*array.shape, 1)


def changed_dtype(array):
    if array.dtype == np.float64:
        array.dtype = np.int64


def swapped(array):
    array.dtype = array.dtype.newbyteorder()


def resized(array):
    if array.flags.owndata and array.flags.c_contiguous:
        array.resize((array.size + 7,), refcheck=False)


def made_read_only(array):
    array.flags.writeable = False


def overwritten(array):
    array[...] = np.zeros((), array.dtype)


CHANGES = (changed_shape, changed_dtype, swapped, resized, made_read_only, overwritten, lambda array: None)
SHARES = (
    lambda array: array,
    lambda array: array[...],
    lambda array: array.T,
    lambda array: np.asarray(memoryview(array.view(np.uint8))) if array.ndim == 1 else array.view(),
    weakref.ref,
)
"""What a processor may hold of a value when it has returned."""


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


class Giver(tg.Task):
    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        ctx.compose(self.give, outs=ctx.outbound([1], "changed") + ctx.outbound([1], "shared"))

    def give(self, ins, outs):
        for out in outs:
            out.put(put_in(self.epoch))


class Keeper(tg.Task):
    def init(self, framework):
        self.kept = []

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        ctx.compose(self.change, ctx.inbound(0, "changed"))
        ctx.compose(self.share, ctx.inbound(0, "shared"))

    def change(self, ins, outs):
        CHANGES[self.epoch % len(CHANGES)](self.checked(ins[0]))

    def share(self, ins, outs):
        array = self.checked(ins[0])
        held = SHARES[self.epoch % len(SHARES)](array)
        if isinstance(held, weakref.ref):
            self.kept.append((held, array.copy()))
        else:
            self.kept.append((lambda: held, held.copy()))

    def checked(self, channel):
        array = channel.get()
        assert same(array, put_in(self.epoch)), (self.epoch, array, put_in(self.epoch))
        assert array.flags.writeable
        assert array.flags.owndata
        assert array.flags.f_contiguous == put_in(self.epoch).flags.f_contiguous
        return array

    def exit(self):
        for epoch, (held, before) in enumerate(self.kept):
            now = held()
            assert now is None or same(now, before), (epoch, now, before)
        print("all as they were put", flush=True)


job = tg.Job("kept-values", num_tasks=2, epochs=EPOCHS, progress="off")
job.set_task_builder(lambda task_id: Keeper() if task_id else Giver())
sys.exit(job.start())
