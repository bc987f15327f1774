"""What one unit knows of the health of etcd, and for how long: so that it can tell when waiting is pointless."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from taskgraph.backends.words import OVER, AbortWords
from taskgraph.plan.ending import Ending
from taskgraph.plan.outage import gives_up

log = logging.getLogger(__name__)

OVER_S = 3.0
"""How long the end of the job may be known on this host and not to this unit, in seconds: another may only have been
the first to reach etcd again. Less than the grace after which a rank that has not noticed is killed."""

WIPED = "etcd has lost the keys of this run: it was wiped, or restored from an older state"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a unit waits for etcd.

    Attributes
    ----------
    own
        Whether the job brought the etcd itself.
    lost_after_s
        See `taskgraph.plan.outage.gives_up`.
    """

    own: bool
    lost_after_s: float


class EtcdState:
    """Whether etcd answers, and still has the keys of this run.

    Parameters
    ----------
    patience
        How long to wait for it; None: forever.
    words
        Of the host: how far its ranks are.
    """

    def __init__(self, patience: Patience | None = None, words: AbortWords | None = None) -> None:
        self._patience = patience
        self._words = words
        self._away_since: float | None = None
        self._moved_at: float | None = None
        self._over_since: float | None = None
        self._at: tuple[int, ...] = ()
        self.wiped = False

    @property
    def away(self) -> bool:
        """Whether no endpoint answers."""
        return self._away_since is not None

    @property
    def usable(self) -> bool:
        """Whether something may be written or read there."""
        return not self.away and not self.wiped

    def set_away(self, away: bool, now: float) -> None:
        """Note that an outage begins or ends; `now` in seconds."""
        if away != self.away:
            self._away_since = now if away else None

    def lose(self, why: str) -> None:
        """Note that etcd has nothing of this run any more: the job goes on without it, as far as it comes."""
        if not self.wiped:
            self.wiped = True
            log.warning("etcd is lost, the job goes on without it to the next failure: %s", why)

    def give_up(self, now: float, failing: bool) -> Ending | None:
        """Return how the job has to end, if it has to.

        Parameters
        ----------
        now
            In seconds.
        failing
            Whether a failure is known that is not recovered from.
        """
        if self._patience is None or self.usable:
            self._moved_at = self._over_since = None
            return None
        over = self._ended_by_another(now)
        if self.wiped:
            told = Ending(status=1, message=f"{WIPED}; a failure cannot be recovered from")
            return told if failing or over else None
        own, lost_after_s = self._patience.own, self._patience.lost_after_s
        away_s = now - (self._away_since or now)
        if not over and not gives_up(
            away_s, self._still_s(now), own=own, failure_known=failing, lost_after_s=lost_after_s
        ):
            return None
        whose = "the job's own etcd" if own else "etcd"
        why = ", and a failure waits to be recovered from" if failing or over else ""
        return Ending(status=1, message=f"{whose} has not answered for {away_s:.0f} s{why}", lost=own)

    def suspended(self, now: float) -> None:
        """Note that this unit has not run for a while: what it measures begins anew."""
        self._away_since = now if self.away else None
        self._moved_at = self._over_since = None

    def _ended_by_another(self, now: float) -> bool:
        """Whether another unit of this host has given up: it may know of a failure that this one does not."""
        if self._words is None or len(self._words) == 0 or self._words.get(0) != OVER:
            return False
        if self._over_since is None:
            self._over_since = now
        return now - self._over_since > OVER_S

    def _still_s(self, now: float) -> float:
        at = () if self._words is None else tuple(map(self._words.progress, range(len(self._words))))
        if self._moved_at is None or at != self._at:
            self._moved_at, self._at = now, at
        return now - self._moved_at
