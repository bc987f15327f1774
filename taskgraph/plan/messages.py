"""What ranks say to each other besides values, and what becomes of a message of another generation.

Only the header names the generation of a message. The compiled wire (`taskgraph._native.wire`) delivers, keeps or drops
by it; `fate` is the same rule for the simulator, and tells the worker when to answer `Topic.FENCED`.
"""

from __future__ import annotations

import struct
from enum import Enum, IntEnum, auto
from typing import NamedTuple

from taskgraph.ids import Epoch, Generation, TaskId

_COPY = struct.Struct("<qq")


class Topic(IntEnum):
    """What a control message of the protocol is about."""

    CONTRIBUTION = 1
    """Up: an epoch is finished in a subtree (`commit.Contribution`)."""
    VERDICT = 2
    """Down: it is finished everywhere (`commit.Verdict`)."""
    DECLARED = 3
    ASK = 4
    COMPOSED = 5
    LEVEL_UP = 6
    """How far a subtree has got with keeping state (`commit.Level`)."""
    LEVEL_DOWN = 7
    """How far the job has."""
    ACK = 8
    """From a backup: its host has a snapshot whole (`Copy`)."""
    WANT_WHOLE = 9
    """From a backup: a snapshot came as a change of one that it does not have (`Copy`)."""
    OVER = 10
    """Down: finished, safe and delivered have reached the end (status as one byte)."""
    OVER_ACK = 11
    """Up: the whole subtree knows."""
    LEAVE = 12
    """Everybody knows, or the end is in etcd: the `Ending`. Counts in any generation."""
    FENCED = 13
    """To a rank of a generation that is over: it is not in the newer one. Counts in any generation."""


class Copy(NamedTuple):
    """Which snapshot an acknowledgement is about."""

    task: TaskId
    boundary: Epoch

    def encode(self) -> bytes:
        """Return the message."""
        return _COPY.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Copy:
        """Read the message. Raises struct.error where it is none."""
        return cls(*_COPY.unpack(data))


class Fate(Enum):
    """What becomes of a message."""

    DELIVER = auto()
    KEEP = auto()
    """Until its generation is adopted."""
    DRAIN = auto()
    """Receive it into scratch, so that the sender's request completes, and forget it."""
    FENCE = auto()
    """Drain it, and answer `Topic.FENCED`."""


ALWAYS = frozenset({Topic.LEAVE, Topic.FENCED})
"""What counts in any generation, and while a rank waits for the next: the end of the job, and of a rank."""


def fate(own: Generation, message: Generation, sender_listed: bool) -> Fate:
    """Tell what becomes of a message, by the generation in its header.

    Parameters
    ----------
    own
        The newest generation that the receiver has adopted; -1: none yet.
    sender_listed
        Whether the sender lives in the receiver's generation.
    """
    if message == own:
        return Fate.DELIVER
    if message > own:
        return early(message)
    return Fate.DRAIN if sender_listed else Fate.FENCE


def early(message: Generation) -> Fate:
    """Tell what becomes of a message of a generation that the receiver has not adopted yet."""
    return Fate.KEEP
