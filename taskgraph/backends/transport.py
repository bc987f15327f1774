"""What the worker needs of the connections between ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from taskgraph._native.channel import Port, Pump
from taskgraph._native.committer import Committer
from taskgraph.ids import Epoch, Generation, Rank

OnControl = Callable[[Rank, int, Epoch, bytes], None]
"""Called as ``on_control(source, topic, epoch, data)`` from within `pump`, `poll` and `finish_sends`."""

OnStray = Callable[[Rank, Generation], None]
"""Called as ``on_stray(source, generation)`` for a message of another generation: dropped if older, kept if later."""

OnLost = Callable[[Rank], None]
"""Called as ``on_lost(rank)`` when the transport itself finds that a peer has died."""

OnCopy = Callable[[Rank, list[Any]], None]
"""Called as ``on_copy(source, frames)`` for a copy of a snapshot. The frames are arrays of bytes of the receiver's own.
"""


class Handlers(NamedTuple):
    """Whom a transport calls, from within `pump`, `poll`, `serve` and `finish_sends`, for what is no value."""

    on_control: OnControl
    on_copy: OnCopy
    on_stray: OnStray
    on_lost: OnLost


class Transport(Protocol):
    """The connections of one rank. Used by one thread."""

    on_idle: Callable[[], None] | None
    """Called once, then forgotten, when a wait has lasted for some 20 ms."""
    urgent: Collection[int]
    """Topics of control messages that are delivered whatever their generation."""

    def peer(self, rank: Rank) -> Port:
        """Return the way to another rank, and be ready for what it sends. Idempotent."""

    def send_control(self, peer: Rank, topic: int, epoch: Epoch, data: bytes) -> object:
        """Send bytes to the worker on another rank, in order with everything else sent there."""

    def send_copy(self, peer: Rank, frames: list[Any]) -> object:
        """Send a copy of a snapshot. The frames, buffers of bytes, must not change while it is wanted."""

    def protect(self, array: NDArray[Any]) -> None:
        """Copy, instead of borrowing, what lies in the memory of `array`."""

    def finish_sends(self) -> None:
        """Wait until no array put in this epoch is needed any more. Raises EpochAborted."""

    def pump(self) -> int:
        """Wait until something came in and was delivered. Raises EpochAborted."""

    def drain(self) -> int:
        """Deliver all that is there, without waiting; return how many messages that were."""

    def serve(self) -> bool:
        """Handle one message, if there is one, whatever the abort word says."""

    def hear_first(self, committer: Committer) -> bool:
        """Give control messages and copies to `committer` before anybody else; return whether that is done."""

    def adopt(self, generation: Generation) -> None:
        """Go over to a later generation: nothing of an older one is delivered or waited for any more."""

    def deliver_early(self) -> None:
        """Deliver what came for this generation before it was adopted."""

    def close(self) -> int:
        """Withdraw what is open; return the number of sends that are still under way."""


__all__ = ["Handlers", "OnControl", "OnCopy", "OnLost", "OnStray", "Port", "Pump", "Transport"]
