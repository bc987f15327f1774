"""The one wait of a rank: for whatever comes in, until a word in shared memory ends it."""

from collections.abc import Callable

from typing_extensions import disjoint_base

from taskgraph._native.channel import Epoch
from taskgraph._native.sender import Sender, _Encodes

@disjoint_base
class Waiter(Sender):
    """Waits for messages and for the end of sends.

    Parameters
    ----------
    comm, epoch, codec
        As of `Sender`.
    word
        Writable, of signed 64-bit integers: the abort word. A wait ends with `EpochAborted` when it is negative, or
        above the generation of this rank.
    spin_s, doze_s
        A wait polls without a pause for `spin_s` seconds, then yields the processor between polls, and sleeps between
        polls after `doze_s` seconds.
    idle_s
        How long a wait lasts until `on_idle` is called.
    """

    on_idle: Callable[[], None] | None
    """Called once, then forgotten, when a wait has lasted for `idle_s` seconds."""

    def __init__(
        self,
        comm: int,
        word: memoryview,
        epoch: Epoch,
        codec: _Encodes,
        spin_s: float,
        doze_s: float,
        idle_s: float,
    ) -> None: ...
    def finish_sends(self) -> None:
        """Wait, still serving what comes in, until every array put in this epoch has left; give back what was borrowed.

        Raises
        ------
        EpochAborted
            The abort word ended the wait. What was borrowed is still read-only.
        """

    def serve(self) -> bool:
        """Handle one message, if there is one, whatever the abort word says. Return whether there was one."""
