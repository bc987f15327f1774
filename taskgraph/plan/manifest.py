"""What makes a checkpoint complete: its manifest, put in place last, with a check of its own."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from taskgraph.ids import Epoch, Generation
from taskgraph.plan.lineage import History

_FORMAT = 1
_HEX = 32
_LINE = _HEX + 2
_NAME = re.compile(r"(0|[1-9][0-9]{0,17})\.([0-9a-f]{16})\.(0|[1-9][0-9]{0,17})")
_RUN = re.compile(r"[0-9a-f]{16}")


class Name(NamedTuple):
    """What a checkpoint is called, as a directory: ``<boundary>.<run>.<generation>``."""

    boundary: Epoch
    run: str
    generation: Generation

    def __str__(self) -> str:
        return f"{self.boundary}.{self.run}.{self.generation}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """Read such a name. None: it is none, so nothing that has it is ever opened or removed."""
        found = _NAME.fullmatch(text)
        return None if found is None else cls(int(found[1]), found[2], int(found[3]))

    @classmethod
    def read(cls, text: str) -> Name:
        """Read such a name, where there has to be one. Raises ValueError."""
        found = cls.parse(text)
        if found is None:
            raise ValueError(f"{text!r} names no checkpoint")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A complete checkpoint.

    Attributes
    ----------
    job, num_tasks
        Of which job.
    name
        Of the checkpoint.
    origin, started
        The run that began afresh, which others went on from, and when that was, in seconds since 1970.
    attempt
        How many runs there have been since, that one included.
    history
        The resume boundaries of all generations of its run.
    written
        When it was complete, in seconds since 1970.
    sizes
        Bytes of each task's file.
    """

    job: str
    num_tasks: int
    name: Name
    origin: str
    started: float
    attempt: int
    history: History
    written: float
    sizes: tuple[int, ...]

    def encode(self) -> bytes:
        """Return the content of the file."""
        body = json.dumps(
            {
                "format": _FORMAT,
                "job": self.job,
                "num_tasks": self.num_tasks,
                "name": str(self.name),
                "origin": self.origin,
                "started": self.started,
                "attempt": self.attempt,
                "history": sorted(self.history.items()),
                "written": self.written,
                "sizes": self.sizes,
            },
            separators=(",", ":"),
        ).encode()
        return body + _line(body)

    @classmethod
    def decode(cls, value: bytes) -> Manifest:
        """Read such a file. Raises ValueError where it is none, or not what was written."""
        body = value[:-_LINE]
        if len(value) <= _LINE or value[-_LINE:] != _line(body):
            raise ValueError("the manifest is damaged: it does not match its checksum")
        try:
            return _read(json.loads(body))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the manifest cannot be read: {error!r}") from error


def _line(body: bytes) -> bytes:
    return b"\n" + hashlib.blake2b(body, digest_size=_HEX // 2).hexdigest().encode() + b"\n"


def _read(fields: dict[str, Any]) -> Manifest:
    if fields["format"] != _FORMAT:
        raise ValueError(f"the manifest has format {fields['format']!r}, and this version reads {_FORMAT} only")
    name, sizes = Name.read(fields["name"]), tuple(map(int, fields["sizes"]))
    if not _RUN.fullmatch(fields["origin"]):
        raise ValueError(f"the manifest names no run: {fields['origin']!r}")
    if len(sizes) != fields["num_tasks"] or min(sizes, default=0) < 0:
        raise ValueError(f"the manifest has {len(sizes)} files of {fields['num_tasks']!r} tasks")
    return Manifest(
        job=str(fields["job"]),
        num_tasks=len(sizes),
        name=name,
        origin=fields["origin"],
        started=float(fields["started"]),
        attempt=int(fields["attempt"]),
        history={int(generation): int(boundary) for generation, boundary in fields["history"]},
        written=float(fields["written"]),
        sizes=sizes,
    )
