"""The sending half of the wire: one eager message for what is small, the memory of arrays themselves for the rest."""

from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from taskgraph._native.channel import Epoch, Port, Pump
from taskgraph.ids import Generation, Rank

__pyx_capi__: dict[str, object]
"""What other compiled modules call."""

class _Encodes(Protocol):
    def encode(self, value: object) -> list[Any]: ...
    def dump_dtype(self, dtype: np.dtype[Any]) -> bytes: ...

@final
class Peer(Port):
    """The way to one rank."""

    @property
    def rank(self) -> Rank:
        """The rank at the other end."""

@disjoint_base
class Sender(Pump):
    """What this rank sends."""

    @property
    def generation(self) -> Generation:
        """What every message sent carries. Only messages of the same are delivered."""

    def __init__(self, comm: int, epoch: Epoch, codec: _Encodes) -> None: ...
    def protect(self, array: NDArray[Any]) -> None:
        """Copy, instead of borrowing, what lies in the memory of this array. Keeps the array."""

    def send_control(self, peer: Rank, topic: int, epoch: int, data: bytes) -> int:
        """Send bytes to the worker on another rank. They are copied, and arrive in the order of the calls.

        That is why long ones travel in several eager messages: a payload may come in after the next message.
        """

    def send_copy(self, peer: Rank, frames: list[Any]) -> int:
        """Send a copy of a snapshot: buffers of bytes, which must not change while it is wanted."""
