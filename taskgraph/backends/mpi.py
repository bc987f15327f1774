"""MPI, as far as a job uses it: started for one thread, one communicator of its own, errors returned.

Collectives are for the start only; from then on everything goes point-to-point through the compiled wire.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from taskgraph._native.channel import Epoch
from taskgraph._native.mpi import check
from taskgraph.backends.ofi import leave_out_ofi
from taskgraph.backends.transport import Handlers, Transport
from taskgraph.config import Waiting
from taskgraph.errors import UsageError
from taskgraph.program.codec import Codec

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

SPIN_S = 1e-3
"""How long a rank with a core of its own polls without a pause."""

DOZE_S = 4e-3
"""After how long a wait begins to sleep between polls. Naps are a 64th of the time waited, a millisecond at most."""


def open_communicator() -> Intracomm:
    """Start MPI, unless the user has, and return a communicator that nobody else uses.

    Raises
    ------
    MpiMismatch
        The extension was compiled for another MPI than mpi4py has loaded.
    UsageError
        mpi4py was told not to start MPI, and nobody has.
    """
    leave_out_ofi(os.environ, Path.home())
    if "mpi4py.MPI" not in sys.modules:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
    check()  # this imports mpi4py.MPI
    from mpi4py import MPI

    if not MPI.Is_initialized():
        raise UsageError("mpi4py.rc.initialize is False and MPI is not started: call MPI.Init_thread() before start()")
    communicator = MPI.COMM_WORLD.Dup()
    communicator.Set_errhandler(MPI.ERRORS_RETURN)
    return communicator


def open_wire(
    communicator: Intracomm,
    word: memoryview,
    waiting: Waiting,
    ranks_here: int,
    epoch: Epoch,
    codec: Codec,
    handlers: Handlers,
) -> Transport:
    """Connect this rank.

    Parameters
    ----------
    word
        The abort word, 8 bytes of signed integer.
    ranks_here
        Number of ranks on this machine: with more of them than cores nobody spins.
    """
    from mpi4py import MPI

    from taskgraph._native.wire import Wire

    spins = waiting == "spin" or (waiting == "auto" and ranks_here <= (os.cpu_count() or 1))
    return Wire(MPI._addressof(communicator), word, epoch, codec, handlers, SPIN_S if spins else 0.0, DOZE_S)
