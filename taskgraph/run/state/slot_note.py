"""What the protocol keeps with each snapshot, in the 64 bits that a slot has for it."""

from __future__ import annotations

from taskgraph.ids import Epoch

END_BITS = 10
"""Where nobody asked for the end, the rest of the note is 0."""


def note(delivered: Epoch, end: int) -> int:
    """Return how far ``committed`` had been called, and the status that the task asked the job to end with."""
    return delivered << END_BITS | (end + 1)


def delivered_of(noted: int) -> Epoch:
    """Return how far ``committed`` had been called."""
    return noted >> END_BITS


def end_of(noted: int) -> int:
    """Return the status asked for, or `NO_END`."""
    return (noted & (1 << END_BITS) - 1) - 1
