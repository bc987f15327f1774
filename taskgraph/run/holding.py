"""Whether a keeper that holds snapshots for the next launch is still waited on: by what it sees of who would launch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping

from taskgraph.backends import slurm
from taskgraph.backends.processes import Process, alive

_ASK_S = 5.0


class Holding:
    """Asked again and again while a host is held.

    Parameters
    ----------
    supervisor
        Its process, where it is on this machine.
    is_over
        Tells from the environment whether the allocation that this process was started in is over.
    """

    def __init__(
        self,
        supervisor: Process | None,
        *,
        is_over: Callable[[Mapping[str, str]], bool] = slurm.is_over,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._is_over = is_over
        self._clock = clock
        self._asked_at = -math.inf
        self._over = False

    def is_expected(self) -> bool:
        """Whether another launch may come."""
        if self._supervisor is not None:
            return alive(self._supervisor)
        now = self._clock()
        if not self._over and now - self._asked_at >= _ASK_S:
            self._asked_at = now
            self._over = self._is_over(os.environ)
        return not self._over
