"""When a unit does its duties."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from taskgraph.backends.coordinator import Coordinator
from taskgraph.errors import CoordinatorUnreachable
from taskgraph.run.unit.duties import Duty

log = logging.getLogger(__name__)

RETRY_S = 0.5


class Schedule:
    """Duties, and when each is due again.

    Parameters
    ----------
    duties
        Each is due at once.
    clock
        Seconds, never going back.
    """

    def __init__(self, duties: Sequence[Duty], clock: Callable[[], float]) -> None:
        self._due = dict.fromkeys(duties, -math.inf)
        self._clock = clock

    def turn(self, coordinator: Coordinator, has_etcd: bool, limit_s: float) -> float:
        """Do what is due. Return the seconds until something is due again, `limit_s` at most.

        Parameters
        ----------
        coordinator
            Handed to the duties.
        has_etcd
            Whether those that need etcd may try.
        limit_s
            The most to return.
        """
        for duty, due in self._due.items():
            if duty.needs_etcd and not has_etcd:
                continue
            now = self._clock()
            if now >= due:
                try:
                    due = now + duty.turn(coordinator, now)
                except CoordinatorUnreachable as error:
                    log.debug("%s is tried again: %s", type(duty).__name__, error)
                    due = now + RETRY_S
                self._due[duty] = due
            limit_s = min(limit_s, due - now)
        return limit_s

    def finish(self, coordinator: Coordinator, has_etcd: bool) -> None:
        """Let each do what is to be done last; one that fails does not keep the others from it."""
        for duty in self._due:
            if duty.needs_etcd and not has_etcd:
                continue
            try:
                duty.finish(coordinator)
            except Exception as error:
                log.debug("%s was not finished: %s", type(duty).__name__, error)
