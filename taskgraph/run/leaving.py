"""How a process of the job ends where it must not go through MPI_Finalize: that may wait for ranks that never come."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn

from taskgraph.backends.launcher import mpi_files


def leave_now(status: int) -> NoReturn:
    """End this process with all that was printed, and nothing else."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    os._exit(status)


def leave_hard(status: int) -> int:
    """Let this process end so when its program does, and return the status.

    MPI would have removed what it keeps in shared memory, of the dead as well.
    """

    def leave() -> None:
        for file in mpi_files(os.environ):
            if file.path.startswith("/dev/shm/") and file.still_there():
                with suppress(OSError):  # others of the job do the same
                    os.unlink(file.path)
        leave_now(status)

    atexit.register(leave)
    return status
