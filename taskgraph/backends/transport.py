"""What the worker needs of the connections between ranks, and the one that is MPI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from taskgraph._native.channel import Port, Pump
from taskgraph.ids import Epoch, Rank

OnControl = Callable[[Rank, int, Epoch, bytes], None]
"""Called as ``on_control(source, topic, epoch, data)`` from within `pump`, `poll` and `finish_sends`."""


class Transport(Protocol):
    """The connections of one rank. Used by one thread."""

    on_idle: Callable[[], None] | None
    """Called once, then forgotten, when a wait has lasted for some 20 ms."""

    def peer(self, rank: Rank) -> Port:
        """Return the way to another rank, and be ready for what it sends. Idempotent."""

    def send_control(self, peer: Rank, topic: int, epoch: Epoch, data: bytes) -> None:
        """Send bytes to the worker on another rank, in order with everything else sent there."""

    def protect(self, array: NDArray[Any]) -> None:
        """Copy, instead of borrowing, what lies in the memory of `array`."""

    def finish_sends(self) -> None:
        """Wait until no array put in this epoch is needed any more. Raises EpochAborted."""

    def pump(self) -> int:
        """Wait until something came in and was delivered. Raises EpochAborted."""

    def close(self) -> int:
        """Withdraw what is open; return the number of sends that are still under way."""


__all__ = ["OnControl", "Port", "Pump", "Transport"]
