"""How one comes to know that a rank is dead, and the record that says so for good.

One event may take several ranks, as the loss of a host does: they share one record, written in one transaction under
one key each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from taskgraph.ids import Epoch, Rank, TaskId


class Evidence(Enum):
    """The five kinds, the fastest first."""

    SELF = "self"
    """A thread of ours ended by an exception, or the interpreter was left outside ``start()``: the rank says so."""
    PROCESS = "process"
    """The process has ended, seen on its own host."""
    PEER = "peer"
    """MPI reports the rank as failed."""
    STOPPED = "stopped"
    """The process has been stopped for too long."""
    LEASE = "lease"
    """The host fell silent, and its lease expired."""


WORDS = {
    Evidence.SELF: "reported itself",
    Evidence.PROCESS: "its process ended",
    Evidence.PEER: "MPI reports it as failed",
    Evidence.STOPPED: "its process was stopped",
    Evidence.LEASE: "its host fell silent",
}


class Work(NamedTuple):
    """What a rank was at when it died: code of a task, in an epoch."""

    task: TaskId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The record that ranks are dead. Sticky: there is no way back.

    Attributes
    ----------
    ranks
        All that the event took, ascending.
    evidence
        How it is known.
    reporter
        The unit that says so.
    detail
        For a person: exit code, signal, exception, host.
    at
        When, in seconds since 1970 by the reporter's clock: to be shown, never compared.
    working
        The task and epoch whose code the process ran when it died, where its end was seen. None: it ran none, an
        injected fault hit it, or it is not known.
    """

    ranks: tuple[Rank, ...]
    evidence: Evidence
    reporter: str
    detail: str = ""
    at: float = 0.0
    working: Work | None = None

    def encode(self) -> bytes:
        """Return the value of the keys ``dead/<rank>``."""
        fields = [list(self.ranks), self.evidence.value, self.reporter, self.detail, self.at, self.working]
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, value: bytes) -> Tombstone:
        """Read a value of a key ``dead/<rank>``. Raises ValueError where it is none."""
        try:
            ranks, evidence, reporter, detail, at, working = json.loads(value)
            work = None if working is None else Work(*map(int, working))
            return cls(tuple(map(int, ranks)), Evidence(evidence), str(reporter), str(detail), float(at), work)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a tombstone: {value[:80]!r}") from error

    def describe(self) -> str:
        """Say it in one line."""
        names = ", ".join(map(str, self.ranks))
        detail = f" ({self.detail})" if self.detail else ""
        return f"rank{'s' if len(self.ranks) > 1 else ''} {names}: {WORDS[self.evidence]}{detail}, says {self.reporter}"
