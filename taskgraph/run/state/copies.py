"""The message that brings a copy of a snapshot to a backup: what the sender knew of commits, the header, the bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from taskgraph.backends.slot_delta import Delta, DeltaHead
from taskgraph.plan.holdings import NO_END, Held, Known
from taskgraph.run.state.slot_note import end_of

_KNOWN = struct.Struct("<5q")


class ArrivedCopy(NamedTuple):
    """A copy that has arrived, and is not stored yet.

    Attributes
    ----------
    slot
        The snapshot.
    base
        What arrived is a change of this one; None: it is the whole.
    known
        The newest commit that the sender had received.
    head, blocks
        What is to be written.
    """

    slot: Held
    base: Held | None
    known: Known
    head: DeltaHead
    blocks: Sequence[Any]


def closed(delta: Delta, known: Known) -> list[Any]:
    """Return the frames of the message."""
    return [_KNOWN.pack(*known) + delta.head.encode(), *delta.frames]


def opened(frames: Sequence[Any]) -> ArrivedCopy:
    """Read the frames of a message.

    Raises
    ------
    ValueError
        They are not those of a copy.
    """
    lead = bytes(frames[0])
    head = DeltaHead.decode(lead[_KNOWN.size :])
    return ArrivedCopy(
        Held(head.task, head.boundary, head.generation, end_of(head.note)),
        None if head.base is None else Held(head.task, head.base.boundary, head.base.generation, NO_END),
        Known(*_KNOWN.unpack_from(lead)),
        head,
        frames[1:],
    )
