"""Two wires that are not in the same generation. Each rank prints what it saw."""

import os
import signal
import sys
import time

import numpy as np

from taskgraph._native.channel import Epoch, InboundChannel, Processor
from taskgraph._native.wire import Wire
from taskgraph.backends.mpi import open_communicator
from taskgraph.backends.transport import Handlers
from taskgraph.errors import EpochAborted
from taskgraph.ids import ChannelId
from taskgraph.program.codec import Codec

LARGE = 1 << 22
LIMIT_S = 20.0


class Rank:
    """A wire, and what came in by it."""

    def __init__(self):
        self.comm = open_communicator()
        from mpi4py import MPI

        self.rank = self.comm.rank
        self.word = memoryview(bytearray(64)).cast("q")
        self.epoch = Epoch(Codec())
        self.strays, self.lost, self.controls = [], [], []
        self.wire = Wire(
            MPI._addressof(self.comm),
            self.word,
            self.epoch,
            Codec(),
            Handlers(
                lambda *message: self.controls.append(message),
                lambda source, frames: None,
                lambda source, generation: self.strays.append(generation),
                self.lost.append,
            ),
            0.0,
            0.001,
        )
        self.wire.peer(1 - self.rank)

    def listen(self):
        """Be the receiver of channel 1 in epoch 5."""
        inbound = InboundChannel(self.epoch, ChannelId(0, 1, "x"), 1)
        self.epoch.connect(
            [[Processor(1, 0, lambda ins, outs: self.got.append(ins[0].get()), (inbound,), ())]], lambda task: None
        )
        self.epoch.begin(5)
        self.got = []

    def until(self, condition):
        """Serve what comes in until `condition` holds."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, "nothing came"
            if not self.wire.serve():
                time.sleep(0.001)

    def say(self, *words):
        print(f"rank {self.rank}:", *words, flush=True)


def old(me):
    """Rank 1 has gone on to generation 1 when values of generation 0 come."""
    if me.rank == 0:
        value = np.ones(LARGE)
        port = me.wire.peer(1)
        port.send(1, 5, np.zeros(3), False)
        port.send(1, 5, value, False)
        assert not value.flags.writeable
        me.until(lambda: me.controls)
        me.wire.finish_sends()  # the other rank has drained it
        me.say("sent", value.flags.writeable)
        me.wire.adopt(1)
        port.send(1, 5, np.full(3, 7.0), False)
    else:
        me.wire.adopt(1)
        me.listen()
        me.until(lambda: len(me.strays) == 2)
        me.wire.adopt(0)
        me.wire.send_control(0, 9, 0, b"drained")
        me.wire.adopt(1)
        me.epoch.run()
        me.say("got", me.got[0].tolist(), "strays", me.strays)


def early(me):
    """Rank 0 has gone on to generation 2 before rank 1."""
    if me.rank == 0:
        me.wire.adopt(2)
        me.wire.send_control(1, 9, 0, b"a")
        me.wire.peer(1).send(1, 5, np.full(LARGE, 3.0), False)
        me.wire.send_control(1, 9, 0, b"b")
        me.wire.finish_sends()
    else:
        me.until(lambda: len(me.strays) == 3)
        me.say("strays", me.strays, "controls", len(me.controls))
        me.wire.adopt(2)
        me.listen()
        me.wire.deliver_early()
        me.epoch.run()
        me.say("got", me.got[0].sum(), "controls", [data for *_, data in me.controls])


def lost(me):
    """Rank 1 dies with a large value on its way to it."""
    me.comm.Barrier()
    if me.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    value = np.ones(LARGE)
    me.wire.peer(1).send(1, 5, value, False)
    me.until(lambda: me.lost)
    me.wire.adopt(1)
    me.wire.peer(1).send(1, 5, np.ones(3), False)  # goes nowhere, and says nothing
    me.say("lost", me.lost, "writable", value.flags.writeable)


def aborted(me):
    """The word names a generation above this rank's; then one that this rank has."""
    if me.rank == 0:
        me.word[0] = 1
        try:
            me.wire.pump()
        except EpochAborted:
            me.say("aborted")
        me.wire.adopt(1)
        me.wire.pump()
        me.say("goes on")
    else:
        me.wire.adopt(1)
        time.sleep(0.2)
        me.wire.send_control(0, 9, 0, b"")


me = Rank()
{"old": old, "early": early, "lost": lost, "aborted": aborted}[sys.argv[1]](me)
sys.stdout.flush()
if sys.argv[1] == "lost":
    os._exit(0)
me.comm.Barrier()
me.wire.close()
