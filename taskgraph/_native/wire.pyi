"""Bytes over MPI, received: eager messages and large payloads, of this generation or another.

Importing this loads the MPI library: call `taskgraph._native.mpi.check` before.

Rule 1: a buffer stays alive until its request is complete.
Rule 2: one thread, the one that initialised MPI.
"""

from collections.abc import Callable, Collection
from typing import Any, Protocol, final

import numpy as np

from taskgraph._native.channel import Epoch
from taskgraph._native.committer import Committer
from taskgraph._native.sender import Peer, _Encodes
from taskgraph._native.waiter import Waiter
from taskgraph.ids import Generation, Rank

class _Codec(_Encodes, Protocol):
    def decode(self, frames: list[Any]) -> object: ...
    def load_dtype(self, data: bytes) -> np.dtype[Any]: ...

class _Handlers(Protocol):
    @property
    def on_control(self) -> Callable[[Rank, int, int, bytes], object]: ...
    @property
    def on_copy(self) -> Callable[[Rank, list[Any]], object]: ...
    @property
    def on_stray(self) -> Callable[[Rank, Generation], object]: ...
    @property
    def on_lost(self) -> Callable[[Rank], object]: ...

@final
class Wire(Waiter):
    """The point-to-point connections of one rank.

    Parameters
    ----------
    comm
        Address of an ``MPI_Comm`` of our own whose error handler is ``MPI_ERRORS_RETURN``.
    epoch
        Takes the values.
    codec
        Turns objects into buffers and back, and dtypes into bytes and back.
    handlers
        Are called for what is no value: ``on_control(source, topic, epoch, data)`` for every control message of this
        generation, ``on_copy(source, frames)`` for every copy of a snapshot, ``on_stray(source, generation)`` for every
        message of another generation (a later one is kept), and ``on_lost(rank)`` when MPI says that a peer has died:
        it is no peer from then on.
    word, spin_s, doze_s, idle_s
        As of `Waiter`.
    """

    urgent: Collection[int]
    """Topics of control messages that are delivered whatever their generation."""

    def __init__(
        self,
        comm: int,
        word: memoryview,
        epoch: Epoch,
        codec: _Codec,
        handlers: _Handlers,
        spin_s: float,
        doze_s: float,
        idle_s: float = 0.02,
    ) -> None: ...
    def peer(self, rank: Rank) -> Peer:
        """Return the way to `rank`, opening the receive for what it sends. Idempotent."""

    def hear_first(self, committer: Committer) -> bool:
        """Give control messages to `committer` first. Return True: that is done."""

    def adopt(self, generation: Generation) -> None:
        """Go over to a later generation: nothing of an older one is delivered or waited for any more.

        What was borrowed is writable again, although a late receiver may still read it: what it gets is dropped there.
        """

    def deliver_early(self) -> None:
        """Deliver what came for this generation before it was adopted here. Its channels must be in place."""

    def close(self) -> int:
        """Withdraw every open receive and let go of completed sends. Return the number of sends still under way."""
