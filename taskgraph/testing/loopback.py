"""Ranks as threads of one process: the transport that carries values by queues instead of MPI.

Everything above it is the code that runs under MPI: layout, channels, epochs, commits.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph._native.channel import Port, Pump, own_copy
from taskgraph._native.committer import Committer
from taskgraph._native.message import borrows, give_back
from taskgraph.backends.transport import Handlers
from taskgraph.errors import EpochAborted
from taskgraph.ids import Epoch, Generation, Rank
from taskgraph.program.codec import Codec

_IDLE_S = 0.02

_Value = tuple[int, int, object]
_Control = tuple[Rank, int, Epoch, bytes]


class Loopback:
    """The network of the threads of one job."""

    def __init__(self, ranks: int) -> None:
        self.inboxes: list[queue.SimpleQueue[_Value | _Control | None]] = [queue.SimpleQueue() for _ in range(ranks)]
        self.over = threading.Event()

    def abort(self) -> None:
        """End every wait of every rank with `EpochAborted`."""
        self.over.set()
        for inbox in self.inboxes:
            inbox.put(None)


class LoopbackPort(Port):
    """The way to one other thread."""

    def __init__(self, inbox: queue.SimpleQueue[Any], codec: Codec, borrow: Callable[[object], None]) -> None:
        self._inbox = inbox
        self._codec = codec
        self._borrow = borrow

    def send(self, channel: int, epoch: int, value: object, copy: bool) -> int:
        """Put a copy of the value into the other thread's inbox."""
        self._inbox.put((channel, epoch, own_copy(value, self._codec)))
        if not copy:
            self._borrow(value)
        return 0


class LoopbackTransport(Pump):
    """The `Transport` of one thread."""

    def __init__(self, network: Loopback, rank: Rank, epoch: NativeEpoch, codec: Codec, handlers: Handlers) -> None:
        self._network = network
        self._rank = rank
        self._epoch = epoch
        epoch.attach(self)
        self._codec = codec
        self._handlers = handlers
        self.on_idle: Callable[[], None] | None = None
        self.urgent: Collection[int] = ()
        self._protected: list[NDArray[Any]] = []
        self._borrowed: list[NDArray[Any]] = []

    def peer(self, rank: Rank) -> Port:
        """Return the way to another thread."""
        return LoopbackPort(self._network.inboxes[rank], self._codec, self._borrow)

    def send_control(self, peer: Rank, topic: int, epoch: Epoch, data: bytes) -> int:
        """Put a control message into the other thread's inbox."""
        self._network.inboxes[peer].put((self._rank, topic, epoch, data))
        return 0

    def hear_first(self, committer: Committer) -> bool:
        """Return False: without slots nobody commits but the member."""
        return False

    def protect(self, array: NDArray[Any]) -> None:
        """Let the array stay writable when it is put."""
        self._protected.append(array)

    def finish_sends(self) -> None:
        """Make what was borrowed writable again. Every send was complete when it was made."""
        give_back(self._borrowed)
        self._borrowed.clear()

    def pump(self) -> int:
        """Wait for one message and deliver it."""
        while True:
            try:
                message = self._network.inboxes[self._rank].get(timeout=_IDLE_S if self.on_idle else None)
            except queue.Empty:
                on_idle, self.on_idle = self.on_idle, None
                if on_idle is not None:
                    on_idle()
                continue
            self._deliver(message)
            return 1

    def poll(self) -> int:
        """Deliver one message, if there is one."""
        try:
            self._deliver(self._network.inboxes[self._rank].get_nowait())
        except queue.Empty:
            return 0
        return 1

    def drain(self) -> int:
        """Deliver all that is there."""
        count = 0
        while self.poll():
            count += 1
        return count

    def send_copy(self, peer: Rank, frames: list[Any]) -> int:
        """Never called: all ranks share one host."""
        raise AssertionError(peer)

    def serve(self) -> bool:
        """Deliver one message, if there is one."""
        return bool(self.poll())

    def adopt(self, generation: Generation) -> None:
        """Do nothing: threads do not die, so there is one generation."""

    def deliver_early(self) -> None:
        """Do nothing: nothing comes early."""

    def close(self) -> int:
        """Nothing is ever under way."""
        return 0

    def _borrow(self, value: object) -> None:
        """Make an array read-only where MPI would read it while it travels, so that a write shows here too."""
        if not borrows(value, self._codec):
            return
        assert isinstance(value, np.ndarray)
        if value.flags.writeable and not any(np.may_share_memory(value, array) for array in self._protected):
            value.flags.writeable = False
            self._borrowed.append(value)

    def _deliver(self, message: _Value | _Control | None) -> None:
        if self._network.over.is_set() or message is None:
            raise EpochAborted
        if len(message) == 3:
            self._epoch.accept(*message)
        else:
            self._handlers.on_control(*message)
