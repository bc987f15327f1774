"""When an epoch is finished everywhere, and a boundary safe: a reduction up the tree, a verdict down it. Pure.

Every commit carries, besides what it says of the epoch, how far all have got with keeping state: the newest boundary
that is safe, and how far ``committed`` has been called. Where one of these must be known before the next epoch is
finished, it travels alone, as a `Level`.

Contributions and verdicts are tuples, not dataclasses: every epoch makes some on every rank.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

from taskgraph.errors import GraphError
from taskgraph.ids import Epoch, Rank

UNBOUNDED: Epoch = 2**62
"""The level of a rank that runs no task: it holds nobody back."""

_CONTRIBUTION = struct.Struct("<q??Bqq")
_VERDICT = struct.Struct("<q?Bqq")
_LEVEL = struct.Struct("<qq")


class Contribution(NamedTuple):
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
    safe
        The newest boundary whose snapshots all holders of its tasks have.
    delivered
        For all earlier epochs ``committed`` has returned on its tasks.
    """

    epoch: Epoch
    idle: bool
    last: bool
    status: int
    safe: Epoch = UNBOUNDED
    delivered: Epoch = UNBOUNDED

    def encode(self) -> bytes:
        """Return the message to the parent."""
        return _CONTRIBUTION.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Contribution:
        """Read a message of a child. Raises struct.error where it is none."""
        return cls(*_CONTRIBUTION.unpack(data))

    def merged(self, others: Collection[Contribution]) -> Contribution:
        """Return what all say together."""
        _, idle, last, status, safe, delivered = zip(self, *others, strict=True)
        return Contribution(self.epoch, all(idle), any(last), max(status), min(safe), min(delivered))


class Verdict(NamedTuple):
    """What the root says: the epoch is finished on every rank.

    Attributes
    ----------
    epoch
        Finished.
    last
        No epoch follows.
    status
        Of the job, where `last`.
    safe, delivered
        The boundaries that all have reached.
    """

    epoch: Epoch
    last: bool
    status: int
    safe: Epoch = -1
    delivered: Epoch = -1

    def encode(self) -> bytes:
        """Return the message to the children."""
        return _VERDICT.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Verdict:
        """Read the message of the parent. Raises struct.error where it is none."""
        return cls(*_VERDICT.unpack(data))


class Level(NamedTuple):
    """How far a rank, a subtree or the job has got with keeping state, said between two commits."""

    safe: Epoch
    delivered: Epoch

    def encode(self) -> bytes:
        """Return the message to the parent or the children."""
        return _LEVEL.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Level:
        """Read such a message. Raises struct.error where it is none."""
        return cls(*_LEVEL.unpack(data))


NOWHERE = Level(-1, -1)


class Reduction:
    """Collects what this rank and its children say, one epoch after the other.

    A child may be an epoch ahead of a rank that has not read the verdict yet, never two.
    """

    def __init__(self, children: Iterable[Rank]) -> None:
        self._children = frozenset(children)
        self._said: dict[Epoch, dict[Rank, Contribution]] = {}
        self._levels: dict[Rank, Level] = dict.fromkeys(self._children, NOWHERE)
        self._own: Contribution | None = None

    @property
    def has_heard(self) -> bool:
        """Whether a child has said something that is not part of a whole yet."""
        return bool(self._said)

    def own(self, contribution: Contribution) -> Contribution | None:
        """Take this rank's own; return the subtree's if that completes it."""
        if not self._children:
            return contribution
        self._own = contribution
        return self._complete(contribution.epoch)

    def child(self, rank: Rank, contribution: Contribution) -> Contribution | None:
        """Take a child's; return the subtree's if that completes it."""
        self.level(rank, Level(contribution.safe, contribution.delivered))
        self._said.setdefault(contribution.epoch, {})[rank] = contribution
        return self._complete(contribution.epoch)

    def level(self, rank: Rank, level: Level) -> None:
        """Note how far the subtree of a child has got."""
        if rank not in self._children:
            raise ValueError(f"rank {rank} is no child of this one")
        self._levels[rank] = level

    def lowest(self, own: Level) -> Level:
        """Return how far all of the subtree have got."""
        safe, delivered = zip(own, *self._levels.values(), strict=True)
        return Level(min(safe), min(delivered))

    def _complete(self, epoch: Epoch) -> Contribution | None:
        own, said = self._own, self._said.get(epoch, {})
        if own is None or own.epoch != epoch or len(said) < len(self._children):
            return None
        self._own = None
        self._said.pop(epoch, None)
        return own.merged(said.values())


def verdict(whole: Contribution, epochs: int | None) -> Verdict:
    """Decide, at the root, what follows the epoch that all have finished.

    Raises
    ------
    GraphError
        Nobody composed anything in it, and it is not the last.
    """
    last = whole.last or (epochs is not None and whole.epoch + 1 >= epochs)
    if whole.idle and not last:
        raise GraphError(
            f"no task composed anything in epoch {whole.epoch}: compose a processor, or call ctx.shutdown()",
            epoch=whole.epoch,
        )
    return Verdict(whole.epoch, last, whole.status if last else 0, whole.safe, whole.delivered)
