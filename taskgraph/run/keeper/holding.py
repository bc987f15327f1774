"""Whether a keeper that holds snapshots for the next launch is still waited on: by what it sees of who would launch.

With ``--no-kill`` Slurm lets a job run on after the loss of its first host, though launcher and supervisor went with
it. Then only keepers of other hosts can have it queued again.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping

from taskgraph.backends import slurm
from taskgraph.backends.processes import Process, alive
from taskgraph.backends.slurm import BatchState
from taskgraph.errors import UsageError
from taskgraph.plan.keeping import HOLD_S

log = logging.getLogger(__name__)

_ASK_S = 5.0
_ASKED_HOLD_S = 3600.0
"""How long to hold where Slurm tells what has become of the job, at most, in seconds: it may take a while to notice."""


class Holding:
    """Asked again and again while a host is held.

    Parameters
    ----------
    supervisor
        Its process, where it is on this machine.
    batch_state
        Tells from the environment what has become of the allocation that this process was started in.
    requeue
        Lets the batch system run its job again, and returns whether it will.
    """

    def __init__(
        self,
        supervisor: Process | None,
        *,
        batch_state: Callable[[Mapping[str, str]], BatchState] = slurm.batch_state,
        requeue: Callable[[Mapping[str, str]], bool] = slurm.requeue_deserted,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._batch_state = batch_state
        self._requeue = requeue
        self._clock = clock
        self._asked_at = -math.inf
        self._found = BatchState.RUNS

    @property
    def limit_s(self) -> float:
        """How long to hold at most, in seconds."""
        if self._supervisor is not None:
            return math.inf
        return _ASKED_HOLD_S if slurm.in_batch_job(os.environ) else HOLD_S

    def is_expected(self) -> bool:
        """Whether another launch may come."""
        if self._supervisor is not None:
            return alive(self._supervisor)
        now = self._clock()
        if self._found is BatchState.RUNS and now - self._asked_at >= _ASK_S:
            self._asked_at = now
            self._found = self._batch_state(os.environ)
        return self._found is BatchState.RUNS

    def hand_back(self) -> None:
        """Ask the batch system for another run of a job that is deserted."""
        if self._found is BatchState.DESERTED:
            try:
                queued = self._requeue(os.environ)
            except UsageError as error:
                log.warning("the job is not queued again: %s", error)
            else:
                log.info("the job is queued again" if queued else "the job is not to be queued again, or was before")
