"""Errors, sorted by what the caller can do about them.

::

    TaskgraphError
    ├── UsageError              fix the program, the options or the launch line
    │   ├── GraphError          the tasks' processors and channels do not fit together
    │   ├── CannotPickle        a value that is no plain array cannot travel
    │   └── MpiMismatch         the extension and mpi4py were built for different MPIs
    ├── CoordinatorError        etcd refused, or is not what it was
    │   ├── CoordinatorUnreachable
    │   ├── RunReplaced         another run of this job name holds the keys now
    │   └── RunWiped            the keys of this run are gone: etcd lost its data
    └── CheckpointError         a checkpoint cannot be written or read now; a healthy job goes on
        └── CheckpointDamaged   this one never can: the one before is used

    EpochAborted (BaseException)    unwinds user code; internal, nobody catches it but the worker
"""

from __future__ import annotations

from collections.abc import Sequence

from taskgraph.ids import ChannelId, Epoch, TaskId


class TaskgraphError(Exception):
    """Root of everything that this package raises on purpose."""


class UsageError(TaskgraphError, ValueError):
    """The program, an option or the launch line is wrong: the message says what to write instead."""


class GraphError(UsageError):
    """What tasks composed does not fit together.

    Attributes
    ----------
    task, epoch, channel
        Where it was found; None where that does not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        task: TaskId | None = None,
        epoch: Epoch | None = None,
        channel: ChannelId | None = None,
    ) -> None:
        super().__init__(message)
        self.task = task
        self.epoch = epoch
        self.channel = channel


class CannotPickle(UsageError):
    """A value cannot be turned into bytes, or not back. Its cause is what pickle, or the value's own code, raised."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")


class MpiMismatch(UsageError):
    """The compiled extension and mpi4py do not speak to the same MPI library."""

    def __init__(self, built: str, loaded: str) -> None:
        super().__init__(
            f"taskgraph was compiled for {built}, but mpi4py loaded {loaded}; "
            "reinstall taskgraph with MPICC naming the compiler of the MPI that mpi4py uses"
        )
        self.built = built
        self.loaded = loaded


class CoordinatorError(TaskgraphError):
    """The coordination service failed in a way that waiting does not mend."""


class CoordinatorUnreachable(CoordinatorError):
    """No endpoint answered in time.

    Attributes
    ----------
    endpoints
        Everything that was tried, as ``host:port``.
    waited_s
        For how long, in seconds.
    """

    def __init__(self, endpoints: Sequence[str], waited_s: float, reason: str) -> None:
        tried = ", ".join(endpoints)
        super().__init__(f"etcd is unreachable: tried {tried} for {waited_s:.1f} s ({reason})")
        self.endpoints = tuple(endpoints)
        self.waited_s = waited_s


class RunReplaced(CoordinatorError):
    """Another run has taken over the name of this job."""


class RunWiped(CoordinatorError):
    """The keys of this run are gone: etcd was wiped or restored from an older state."""


class CheckpointError(TaskgraphError):
    """The place where checkpoints are kept failed, or no checkpoint is usable."""


class CheckpointDamaged(CheckpointError):
    """A file of a checkpoint is not what was written, or is not there."""


class EpochAborted(BaseException):
    """The epoch is over for this rank. Unwinds user code, so no ``except Exception`` may hold it."""
