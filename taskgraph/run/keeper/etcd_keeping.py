"""The part of a keeper that runs the etcd of a job: begin it, start it again on its data, take it over, end it.

The data lie in a directory of their own, locked by the keeper that has the etcd. A keeper that is killed takes its etcd
with it, and the kernel frees the lock: so another keeper of the machine, or the same one started again, goes on with
the data at the same endpoint, and an etcd without a keeper cannot be.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from taskgraph.backends import etcd_server
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.etcd_server import EtcdServer
from taskgraph.backends.processes import Process
from taskgraph.errors import CoordinatorError, UsageError
from taskgraph.run.host.directory import check_private, machine, remove_private
from taskgraph.run.host.files import lock, write_atomically, write_process

log = logging.getLogger(__name__)

_START_S = 10.0
_RESTART_S = 5.0
_PAUSE_S = 1.0


class EtcdKeeping:
    """The etcd of a job, as one keeper of its machine sees it.

    The thread that calls `begin` and `look` has to live as long as the process: the kernel ends etcd with it.

    Parameters
    ----------
    data
        The directory of its data.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._record = data / "server"
        self._lock: int | None = None
        self._server: EtcdServer | None = None
        self._not_before = -math.inf

    @property
    def holds(self) -> bool:
        """Whether it is this keeper that has the etcd."""
        return self._lock is not None

    def begin(self, addresses: Sequence[str] = ()) -> EtcdAccess:
        """Start etcd, or go on with its data, and return how it is reached.

        Parameters
        ----------
        addresses
            Where it is to be reached from other machines, with certificates. None: from this machine only, without.

        Raises
        ------
        UsageError
            There is no etcd to start, or the directory of the data is in use or not ours.
        CoordinatorError
            It does not start.
        """
        with contextlib.suppress(FileExistsError):
            self._data.mkdir(mode=0o700)
        if not self._acquire():
            server = self._recorded()
            if server is None:
                raise UsageError(f"{self._data} is in use: another keeper of this machine has the etcd of this run")
            return server.access()
        return self._run(self._recorded(), _START_S, addresses).access()

    def look(self) -> Process | None:
        """See that etcd runs: start it again if it does not, take it over if its keeper is gone.

        Returns
        -------
        Process or None
            The process of etcd, if it is this keeper that has it and it runs.
        """
        server = self._server if self._lock is not None else self._recorded()
        if server is None or (self._lock is None and not self._acquire()):
            return None
        if self._server is not None and self._server.alive():
            return self._server.process
        if time.monotonic() < self._not_before:
            return None
        log.warning("the etcd of this job is gone: it is started again on its data")
        try:
            return self._run(server, _RESTART_S, ()).process
        except (CoordinatorError, UsageError) as error:
            log.error("the etcd of this job does not start again: %s", error)
            self._not_before = time.monotonic() + _PAUSE_S
            return None

    def end(self) -> None:
        """End etcd and remove its data, if no other keeper has it. Idempotent."""
        if self._lock is None and not self._acquire():
            return
        server = self._server or self._recorded()
        if server is not None:
            try:
                server.stop()
            except CoordinatorError as error:
                log.error("%s", error)
        remove_private(self._data)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _acquire(self) -> bool:
        """Take the lock, if it is free and the data are still there."""
        try:
            check_private(self._data)
            held = lock(self._data / "lock")
        except (UsageError, FileNotFoundError):
            return False
        if held is None:
            return False
        if os.fstat(held).st_nlink == 0:  # removed by the one that had it, while this one was opening it
            os.close(held)
            return False
        self._lock = held
        write_process(self._data / "owner", Process.current(), machine())
        return True

    def _run(self, server: EtcdServer | None, timeout_s: float, addresses: Sequence[str]) -> EtcdServer:
        if server is None:
            self._server = etcd_server.start(self._data, timeout_s, addresses=addresses, ends_with_parent=True)
        else:
            self._server = server.restart(timeout_s, ends_with_parent=True)
        fields = [self._server.pid, self._server.start_time, self._server.endpoint, self._server.directory]
        write_atomically(self._record, json.dumps(fields))
        return self._server

    def _recorded(self) -> EtcdServer | None:
        """Return the etcd that was started last on these data, by whichever keeper."""
        try:
            return EtcdServer(*json.loads(self._record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
