"""How long recoveries took on this rank, phase by phase, and what they cost: for the log, and for a person.

Times are seconds since 1970, since a death may have been seen on another host; where that host's clock goes ahead, a
phase may seem to take no time, but never less.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from taskgraph.ids import Epoch, Rank
from taskgraph.plan.decision import Decision
from taskgraph.plan.evidence import Tombstone

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A failure that this rank has lived through.

    Attributes
    ----------
    before, decision
        The generation that the failure ended, and the one that follows.
    tombstones
        Of the ranks that were lost, each once.
    known_s
        From the death, as far as its moment is known, until this rank had heard of it, in seconds. What follows is
        counted from the death too.
    agreed_s
        Until the decision was here.
    restored_s
        Until the state was that of the boundary resumed from.
    """

    before: Decision
    decision: Decision
    tombstones: tuple[Tombstone, ...]
    known_s: float
    agreed_s: float
    restored_s: float


@dataclass(frozen=True, slots=True)
class Survived:
    """What a job that has lost ranks went through."""

    epochs: Epoch
    lost: tuple[Rank, ...]
    failures: int
    lost_s: float


class Timeline:
    """Takes times. All but `heard` is called by the main thread, and `heard` by the sidecar's."""

    def __init__(self, rank: Rank, decision: Decision) -> None:
        self._rank = rank
        self._decision = decision
        self._heard: dict[Rank, tuple[Tombstone, float]] = {}
        self._latest: tuple[Recovered, float] | None = None
        self._lost: list[Rank] = []
        self._failures = 0
        self.is_behind = False
        """Whether `epoch` wants to be told."""
        self._furthest: Epoch = -1
        self._furthest_began = 0.0
        self._lost_s = 0.0

    def heard(self, tombstone: Tombstone, now: float) -> None:
        """Note that a tombstone is known here."""
        for rank in tombstone.ranks:
            self._heard.setdefault(rank, (tombstone, now))
        log.info("rank=%d phase=known dead=%s: %s", self._rank, list(tombstone.ranks), tombstone.describe())

    def resumed(
        self, decision: Decision, reached: tuple[Epoch, float] | None, agreed_at: float, now: float
    ) -> Recovered:
        """Note that this rank has restored its state in a generation.

        Parameters
        ----------
        reached
            The epoch that was entered last, and when; None: there was none.
        agreed_at
            When the decision was here.
        """
        if reached is not None and reached[0] >= self._furthest:
            self._furthest, self._furthest_began = reached
        before, self._decision = self._decision, decision
        heard = dict(self._heard)
        dead = [rank for rank in before.live if rank not in decision.host_of]
        found = [heard[rank] for rank in dead if rank in heard]
        known_at = min((at for _, at in found), default=agreed_at)
        died_at = min((min(tombstone.at or at, at) for tombstone, at in found), default=known_at)
        recovered = Recovered(
            before=before,
            decision=decision,
            tombstones=tuple({tombstone.ranks: tombstone for tombstone, _ in found}.values()),
            known_s=known_at - died_at,
            agreed_s=max(agreed_at - died_at, 0.0),
            restored_s=max(now - died_at, 0.0),
        )
        self._latest, self.is_behind = (recovered, died_at), True
        self._lost += dead
        self._failures += 1
        if decision.boundary > self._furthest:
            self._lost_s += recovered.restored_s  # else it is told by the epoch that begins once more
        self._log(recovered)
        return recovered

    def epoch(self, epoch: Epoch, now: float) -> None:
        """Note, after a failure, that an epoch begins: with the second, the first is committed."""
        if epoch == self._furthest:
            self._lost_s += now - self._furthest_began
        is_complete = self._latest is not None and epoch > self._latest[0].decision.boundary
        self.is_behind = epoch < self._furthest or (self._latest is not None and not is_complete)
        if self._latest is not None and is_complete:
            (latest, died_at), self._latest = self._latest, None
            generation, ms = latest.decision.generation, 1000 * (now - died_at)
            log.info("rank=%d generation=%d phase=committed ms=%.1f", self._rank, generation, ms)

    def survived(self, epochs: Epoch) -> Survived:
        """Sum up."""
        return Survived(epochs, tuple(self._lost), self._failures, self._lost_s)

    def _log(self, recovered: Recovered) -> None:
        log.info(
            "rank=%d generation=%d phase=restored known_ms=%.1f agreed_ms=%.1f restored_ms=%.1f boundary=%d dead=%s",
            self._rank,
            recovered.decision.generation,
            1000 * recovered.known_s,
            1000 * recovered.agreed_s,
            1000 * recovered.restored_s,
            recovered.decision.boundary,
            list(recovered.decision.dead),
        )


def moved(before: Decision, after: Decision) -> Mapping[int, Rank]:
    """Return the tasks that have another primary than before, with the new one."""
    tasks = range(len(after.layout.replicas))
    return {
        task: after.layout.primary(task) for task in tasks if before.layout.primary(task) != after.layout.primary(task)
    }
