"""What a host has to offer to the next generation: its whole snapshots, and what it heard of commits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from taskgraph.ids import Epoch, Generation, Host, TaskId

NO_END = -1
"""In place of a status: nobody asked for the end of the job."""


class Held(NamedTuple):
    """A whole snapshot, without what is in it.

    Attributes
    ----------
    task, boundary
        What it is a snapshot of.
    generation
        The one that wrote it; a copy keeps the stamp of the original.
    end
        The status that its task asked the job to end with at this boundary, or `NO_END`.
    """

    task: TaskId
    boundary: Epoch
    generation: Generation
    end: int = NO_END


class Known(NamedTuple):
    """What the newest commit that a host received said. Kept in its shared memory, so that it outlives the rank.

    Attributes
    ----------
    generation
        The one the commit was of; -1: none was received.
    safe, delivered
        The boundaries that had been reached everywhere.
    end_at, end
        The boundary at which the job ends and with what status, once that is decided; -1 before.
    """

    generation: Generation = -1
    safe: Epoch = -1
    delivered: Epoch = -1
    end_at: Epoch = -1
    end: int = NO_END


NOTHING_KNOWN = Known()


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one host publishes once its floor is raised: from then on it does not change."""

    host: Host
    slots: tuple[Held, ...]
    known: Known = NOTHING_KNOWN

    def encode(self) -> bytes:
        """Return the value of a key ``gen/<g>/holds/<host>``."""
        return json.dumps([self.host, self.slots, self.known]).encode()

    @classmethod
    def decode(cls, value: bytes) -> Holdings:
        """Read such a value. Raises ValueError where it is none."""
        try:
            host, slots, known = json.loads(value)
            return cls(str(host), tuple(Held(*map(int, slot)) for slot in slots), Known(*map(int, known)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"not the holdings of a host: {value[:80]!r}") from error
