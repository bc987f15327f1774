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
    """Whether a pause is asked for, and how far that has got.

    Attributes
    ----------
    asked
        The signal that asked; 0: none has.
    must_end
        Whether a job that cannot pause has to end all the same.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.must_end = False
        self._passed_on = False

    def ask(self, number: signal.Signals, *, must_end: bool) -> None:
        """Take the wish; in the handler of a signal."""
        self.asked, self.must_end = number, must_end

    def begin(self) -> None:
        """Note that another attempt begins, which knows nothing of it."""
        self._passed_on = False

    def pass_on(self, attempt: Supervised) -> bool:
        """Tell the job, as soon as it can be told. False where it cannot pause."""
        if self._passed_on:
            return True
        for directory, spec in directories(shared_memory(), attempt.series):
            if spec.attempt == attempt:
                if not spec.pauses:
                    return False
                with suppress(TaskgraphError, OSError):  # not yet, or etcd is away: it is tried again
                    self._tell(directory, spec)
                    self._passed_on = True
                    return True
        return True

    def _tell(self, directory: HostDir, spec: KeeperSpec) -> None:
        from taskgraph.backends.etcd import EtcdCoordinator  # gRPC, which few supervisors need

        access = EtcdAccess.decode(directory.etcd_access.read_text(encoding="utf-8")).within(_OPERATION_S)
        why = f"'taskgraph run' got {signal.Signals(self.asked).name}"
        asked = records.pause(PauseAsked(spec.ranks[0], why))
        with closing(EtcdCoordinator(access, spec.job, spec.run)) as coordinator:
            coordinator.write(asked.entries, absent=asked.absent)
