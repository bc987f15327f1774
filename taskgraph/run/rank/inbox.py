"""What the sidecar of a rank has heard, until the main thread asks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from taskgraph.ids import Generation
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Tombstone
from taskgraph.plan.lineage import History
from taskgraph.plan.news import Checkpoints
from taskgraph.run.rank.leaving import leave_now

log = logging.getLogger(__name__)


class Inbox:
    """What the sidecar has heard, for the main thread. It is the `Follower` of the rank's recovery.

    Parameters
    ----------
    lost
        Is told of each death.
    tell
        Prints what no rank has said.
    checkpoint
        Is told what etcd says of checkpoints.
    """

    def __init__(
        self,
        lost: Callable[[Tombstone], None],
        tell: Callable[[Ending], None],
        checkpoint: Callable[[Checkpoints], None],
    ) -> None:
        self._lost = lost
        self._checkpoint = checkpoint
        self._tell = tell
        self._news = threading.Condition()
        self._ending: Ending | None = None
        self._decided: tuple[Decision, History] | None = None
        self.decided_at = 0.0
        """When the newest decision was here, in seconds since 1970."""

    def ended(self, ending: Ending) -> None:
        """Take the end of the job. What no rank has said, such as the loss of etcd's data, is told here."""
        if ending.message and ending.rank is None:
            self._tell(ending)
        with self._news:
            self._ending = ending
            self._news.notify_all()

    def decided(self, decision: Decision, history: History) -> None:
        """Take a generation; it replaces one that was not adopted yet."""
        with self._news:
            self._decided, self.decided_at = (decision, history), time.time()
            self._news.notify_all()

    def dead(self, tombstone: Tombstone) -> None:
        """Leave at once: this rank was declared dead, and whatever it does is not wanted any more."""
        log.warning("this rank leaves: it was declared dead (%s)", tombstone.describe())
        leave_now(0)

    def lost(self, tombstone: Tombstone) -> None:
        """Pass on that ranks are dead."""
        self._lost(tombstone)

    def checkpoint(self, said: Checkpoints) -> None:
        """Pass on what is said of checkpoints."""
        self._checkpoint(said)

    def ending(self, timeout_s: float = 0.0) -> Ending | None:
        """Return the end of the job, or None where it is not known in time."""
        with self._news:
            self._news.wait_for(lambda: self._ending is not None, timeout_s)
            return self._ending

    def decision(self, after: Generation) -> tuple[Decision, History] | None:
        """Return the newest decision, if it is of a generation above `after`."""
        decided = self._decided
        return decided if decided is not None and decided[0].generation > after else None
