"""When an epoch is finished everywhere: a reduction up the tree, a verdict down it. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from taskgraph.ids import Epoch, Rank

_CONTRIBUTION = struct.Struct("<q??B")
_VERDICT = struct.Struct("<q?B")


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one rank, or a subtree of ranks, says when it has finished an epoch.

    Attributes
    ----------
    epoch
        Finished.
    idle
        No task of it composed anything in that epoch.
    last
        Somebody asked for the end of the job.
    status
        The highest status asked for.
    """

    epoch: Epoch
    idle: bool
    last: bool
    status: int

    def encode(self) -> bytes:
        """Return the message to the parent."""
        return _CONTRIBUTION.pack(self.epoch, self.idle, self.last, self.status)

    @classmethod
    def decode(cls, data: bytes) -> Contribution:
        """Read a message of a child. Raises struct.error where it is none."""
        return cls(*_CONTRIBUTION.unpack(data))

    def merged(self, other: Contribution) -> Contribution:
        """Return what both say together."""
        return Contribution(
            self.epoch, self.idle and other.idle, self.last or other.last, max(self.status, other.status)
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the root says: the epoch is finished on every rank.

    Attributes
    ----------
    epoch
        Finished; it will not run again.
    last
        No epoch follows.
    status
        Of the job, where `last`.
    """

    epoch: Epoch
    last: bool
    status: int

    def encode(self) -> bytes:
        """Return the message to the children."""
        return _VERDICT.pack(self.epoch, self.last, self.status)

    @classmethod
    def decode(cls, data: bytes) -> Verdict:
        """Read the message of the parent. Raises struct.error where it is none."""
        return cls(*_VERDICT.unpack(data))


class Reduction:
    """Collects the contributions of this rank and its children, one epoch after the other.

    A child may be an epoch ahead of a rank that has not read the verdict yet, never two.
    """

    def __init__(self, children: Iterable[Rank]) -> None:
        self._children = frozenset(children)
        self._said: dict[Epoch, dict[Rank, Contribution]] = {}
        self._own: Contribution | None = None

    def own(self, contribution: Contribution) -> Contribution | None:
        """Take this rank's own; return the subtree's if that completes it."""
        self._own = contribution
        return self._complete(contribution.epoch)

    def child(self, rank: Rank, contribution: Contribution) -> Contribution | None:
        """Take a child's; return the subtree's if that completes it."""
        if rank not in self._children:
            raise ValueError(f"rank {rank} is no child of this one")
        self._said.setdefault(contribution.epoch, {})[rank] = contribution
        return self._complete(contribution.epoch)

    def _complete(self, epoch: Epoch) -> Contribution | None:
        own, said = self._own, self._said.get(epoch, {})
        if own is None or own.epoch != epoch or len(said) < len(self._children):
            return None
        self._own = None
        self._said.pop(epoch, None)
        whole = own
        for contribution in said.values():
            whole = whole.merged(contribution)
        return whole


def verdict(whole: Contribution, epochs: int | None) -> Verdict:
    """Decide, at the root, what follows the epoch that all have finished."""
    last = whole.last or (epochs is not None and whole.epoch + 1 >= epochs)
    return replace(Verdict(whole.epoch, last, 0), status=whole.status if last else 0)
