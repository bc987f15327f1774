"""How a job ends: the value that its status key holds, and the words for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from taskgraph.ids import Epoch, Rank, TaskId

PAUSED = 75
"""The status of a job that was asked to end before it was finished, with a checkpoint to go on from: EX_TEMPFAIL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of a job. The first one written rules on every rank.

    Attributes
    ----------
    status
        What ``start()`` returns on every rank; 0 is success.
    message
        One line for a person; empty on success.
    details
        The traceback of user code, as text; empty where there is none.
    lost
        Whether it is only what the job had in memory that is lost: a launch that follows may find more.
    rank, task, epoch, channel
        Where the cause lies, as far as it is known.
    """

    status: int
    message: str = ""
    details: str = ""
    lost: bool = False
    rank: Rank | None = None
    task: TaskId | None = None
    epoch: Epoch | None = None
    channel: str | None = None

    def encode(self) -> bytes:
        """Return the value of the key ``status``."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, value: bytes) -> Ending:
        """Read a value of the key ``status``. Raises ValueError where it is none."""
        fields = json.loads(value)
        if not isinstance(fields, dict) or not isinstance(fields.get("status"), int):
            raise ValueError(f"not the ending of a job: {value[:80]!r}")
        known: dict[str, Any] = {name: fields[name] for name in cls.__slots__ if fields.get(name) is not None}
        return cls(**known)

    def describe(self) -> str:
        """Say it in one line that names rank, task, epoch and channel, as far as they are known."""
        where = [
            f"{name} {value}"
            for name, value in (
                ("rank", self.rank),
                ("task", self.task),
                ("epoch", self.epoch),
                ("channel", self.channel),
            )
            if value is not None
        ]
        return f"{', '.join(where)}: {self.message}" if where else self.message
