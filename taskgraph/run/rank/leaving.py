"""How a process of the job ends: MPI_Finalize waits for all ranks, and for one that never comes it waits forever."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from taskgraph._native import parting
from taskgraph.backends.launcher import launchers, own_segments, remove_own_segments
from taskgraph.backends.processes import Process, open_pidfd
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.roster import read_roster
from taskgraph.run.worker.control import NAP_S

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

log = logging.getLogger(__name__)

FINALIZE_S = 5
"""How long MPI_Finalize may take once another rank of the host, or the launcher, has ended, in seconds."""

READ_S = 0.02
"""How long a process that leaves without MPI waits once all is printed, in seconds. Open MPI's launcher lost the last
line of processes that ended at once in 7 of 37 runs, and in none of 56 where they took 2 ms."""

COME_S = 60.0
"""How long the ranks of a job that has ended may take to come to its end, in seconds: one may write a last file."""


def leave_now(status: int) -> NoReturn:
    """End this process with all that was printed, and nothing else."""
    _flush()
    os._exit(status)


def leave_as_child(error: BaseException) -> NoReturn:
    """End a process that user code has forked, as Python would where nothing else waited for it.

    It has no threads of ours and is no rank; what it raised is not the job's end.
    """
    if isinstance(error, SystemExit):
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
            leave_now(1)
        leave_now(error.code or 0)
    traceback.print_exception(error)
    leave_now(1)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()


def leave_hard(status: int) -> int:
    """Make this process end with `status`, and without MPI, when its program does; return the status.

    MPI would have removed what it keeps in shared memory, of the dead as well.
    """

    def leave() -> None:
        remove_own_segments(os.environ)
        _flush()
        time.sleep(READ_S)
        leave_now(status)

    atexit.register(leave)
    return status


def all_come(communicator: Intracomm) -> bool:
    """Meet the ranks of all hosts at the end of the job; return False where one has died and will not come.

    Only for launchers under which one death does not end the others: MPI reports a death here, while MPI_Finalize would
    wait forever.
    """
    from mpi4py import MPI

    until = time.monotonic() + COME_S
    try:
        met = communicator.Ibarrier()
        while not met.Test():
            if time.monotonic() > until:
                return False
            time.sleep(NAP_S)
    except MPI.Exception as error:
        log.info("a rank that has died does not come to the end of the job: %s", error)
        return False
    return True


def leave_through_mpi(status: int, directory: HostDir) -> int:
    """Let this process end through MPI_Finalize when its program does, and return the status.

    Another rank may leave without: it knows of a death that this one has not heard of, or it dies only now.
    """
    me = Process.current()
    others = {entry.process for entry in read_roster(directory)} - {me} | set(launchers(me))
    descriptors = [open_pidfd(process) for process in others]
    parting.limit(
        [descriptor for descriptor in descriptors if descriptor is not None and descriptor >= 0],
        None in descriptors,
        FINALIZE_S,
        status,
        [os.fsencode(path) for path in own_segments(os.environ)],
    )
    return status
