"""Who talks to whom besides the channels: the tree over the live ranks that commits go up and down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskgraph.ids import Rank

FANOUT = 8
"""Children of a rank. A wide tree is shallow: each level costs a message's latency in every epoch."""


@dataclass(frozen=True, slots=True)
class TreePlace:
    """A rank's place in the tree: who is above it, and who below."""

    parent: Rank | None
    children: tuple[Rank, ...]


def tree_place(live: Sequence[Rank], rank: Rank) -> TreePlace:
    """Return the place of `rank` in the tree over the live ranks, given in ascending order."""
    at = live.index(rank)
    parent = None if at == 0 else live[(at - 1) // FANOUT]
    return TreePlace(parent, tuple(live[FANOUT * at + 1 : FANOUT * at + 1 + FANOUT]))
