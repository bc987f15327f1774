"""The loss of a rank while the job starts, when nobody can go on without it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskgraph.ids import Rank

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm


def lost_ranks(error: Exception, communicator: Intracomm) -> tuple[Rank, ...]:
    """Return the ranks by whose loss a call of MPI failed; nobody where the error is another."""
    from mpi4py import MPI

    if not isinstance(error, MPI.Exception):
        return ()
    if error.Get_error_class() not in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED):
        return ()
    return tuple(MPI.Group.Translate_ranks(communicator.Get_failed(), None, communicator.Get_group()))
