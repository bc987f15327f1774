"""What an exception that reached the worker means for the job: where it came from, what of its traceback to show."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from taskgraph.errors import CheckpointError, GraphError, TaskgraphError
from taskgraph.ids import Epoch, Rank, TaskId
from taskgraph.plan.ending import Ending

_OURS = str(Path(__file__).parents[2])


def ending_of(error: BaseException, rank: Rank, task: TaskId | None, epoch: Epoch | None) -> Ending:
    """Return the ending of a job whose user code, or whose graph, raised `error`.

    Parameters
    ----------
    task, epoch
        Whose code ran, and when. What the error itself says rules.
    """
    channel: str | None = None
    message = str(error) if isinstance(error, TaskgraphError) else f"{type(error).__name__}: {error}"
    status = 1
    if isinstance(error, GraphError):
        task = error.task if error.task is not None else task
        epoch = error.epoch if error.epoch is not None else epoch
        channel = str(error.channel) if error.channel is not None else None
    if isinstance(error, SystemExit):
        message = f"the program called sys.exit({error.code!r})"
        status = error.code if isinstance(error.code, int) and 0 < error.code < 256 else 1
    return Ending(
        status=status,
        message=message,
        details=users_traceback(error),
        lost=isinstance(error, CheckpointError),  # of those that are left, another launch takes one that is whole
        rank=rank,
        task=task,
        epoch=epoch,
        channel=channel,
    )


def users_traceback(error: BaseException) -> str:
    """Return the traceback from the first frame of user code on; empty where there is none."""
    at = error.__traceback__
    while at is not None and _is_ours(at):
        at = at.tb_next
    if at is None:
        return ""
    return "".join(traceback.format_exception(type(error), error, at))


def _is_ours(at: TracebackType) -> bool:
    name = at.tb_frame.f_code.co_filename
    return name.startswith((_OURS, "taskgraph/"))  # the latter: compiled code
