"""What an exception that reached the worker means for the job: where it came from, what of its traceback to show."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

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
    message = described(error)
    status = 1
    if isinstance(error, GraphError):
        task = error.task if error.task is not None else task
        epoch = error.epoch if error.epoch is not None else epoch
        channel = str(error.channel) if error.channel is not None else None
    if isinstance(error, SystemExit):
        code = error.code
        message = f"the program called sys.exit({code!r})" if isinstance(code, int | str | None) else message
        status = code if isinstance(code, int) and 0 < code < 256 else 1
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


def described(error: BaseException) -> str:
    """Say what an error is, in whatever state it is: user code may have written its `__str__`."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception as unsaid:
        return f"{name}, and its message cannot be had: {type(unsaid).__name__} in __str__"
    if isinstance(error, TaskgraphError):
        return text
    return f"{name}: {text}" if text else name


def users_traceback(error: BaseException) -> str:
    """Return the traceback without frames of ours; empty where user code has no part in it."""
    try:
        shown = traceback.TracebackException.from_exception(error)
        theirs = [_without_ours(one) for one in _chain(shown)]
        return "".join(shown.format()) if any(theirs) else ""
    except Exception:  # an exception of the user's may do anything when it is looked at
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame)]
        return "".join(["Traceback (most recent call last):\n", *traceback.format_list(frames), described(error), "\n"])


def _chain(shown: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """Return an error, what it came from, and what is in it."""
    yield shown
    context = None if shown.__suppress_context__ else shown.__context__
    for other in (shown.__cause__, context, *(shown.exceptions or ())):
        if other is not None:
            yield from _chain(other)


def _without_ours(shown: traceback.TracebackException) -> bool:
    """Leave out frames of ours; return whether any other is there."""
    theirs = [frame for frame in shown.stack if not _is_ours(frame)]
    shown.stack = traceback.StackSummary.from_list(theirs)
    return bool(theirs)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith((_OURS, "taskgraph/_native/"))  # the latter: compiled code
