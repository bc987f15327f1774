"""The plain values that name things, so that a signature says which number it takes."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Rank: TypeAlias = int
"""Position of an MPI process in the job, 0..N-1."""

TaskId: TypeAlias = int
"""Logical unit of work, 0..T-1."""

Host: TypeAlias = str
"""Name of the machine, or of the share of one, that a rank runs on."""

Epoch: TypeAlias = int
"""Iteration, from 0. Boundary ``e`` is the instant before epoch ``e``."""

Generation: TypeAlias = int
"""Count of layouts: ``g + 1`` follows a failure."""

Tag: TypeAlias = str | int
"""What the user calls a channel between two tasks."""


class ChannelId(NamedTuple):
    """A channel: it carries exactly one value an epoch."""

    source: TaskId
    destination: TaskId
    tag: Tag

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination} {self.tag!r}"
