"""A supervisor that is asked for the end of its job tells the job, which writes a checkpoint first if it writes any.

The request goes through etcd, as a rank passes on such a signal: a launcher may swallow signals, or kill.
"""

from __future__ import annotations

import logging
import signal
from contextlib import closing, suppress

from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.errors import TaskgraphError
from taskgraph.plan import records
from taskgraph.plan.news import PauseAsked
from taskgraph.run.host.directory import HostDir, shared_memory
from taskgraph.run.host.keeper_spec import KeeperSpec
from taskgraph.run.host.supervised import Supervised
from taskgraph.run.start.inheritance import directories

log = logging.getLogger(__name__)

_OPERATION_S = 2.0


class Pause:
    """The request for a pause, and whether the job has it."""

    def __init__(self) -> None:
        self._passed_on = False

    def begin(self) -> None:
        """Note that another attempt begins, which knows nothing of it."""
        self._passed_on = False

    def pass_on(self, attempt: Supervised, number: int) -> bool:
        """Tell the job of a signal. False where it cannot pause, or has not come so far that it can be told."""
        if self._passed_on:
            return True
        for directory, spec in directories(shared_memory(), attempt.series):
            if spec.attempt == attempt:
                if not spec.pauses:
                    return False
                with suppress(TaskgraphError, OSError):  # not yet, or etcd is away: it is tried again
                    self._tell(directory, spec, number)
                    self._passed_on = True
                return True
        return False

    def _tell(self, directory: HostDir, spec: KeeperSpec, number: int) -> None:
        from taskgraph.backends.etcd import EtcdCoordinator  # gRPC, which few supervisors need

        access = EtcdAccess.decode(directory.etcd_access.read_text(encoding="utf-8")).within(_OPERATION_S)
        why = f"'taskgraph run' got {signal.Signals(number).name}"
        asked = records.pause(PauseAsked(spec.ranks[0], why))
        with closing(EtcdCoordinator(access, spec.job, spec.run)) as coordinator:
            coordinator.write(asked.entries, absent=asked.absent)
