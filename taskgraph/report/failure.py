"""The words for the end of a job that failed."""

from __future__ import annotations

from taskgraph.plan.ending import Ending


def failure(ending: Ending) -> str:
    """Return what to print, once, for a job that failed: the user's traceback, then one line that says where and why.

    Empty for a job that ended well. No newline at the end.
    """
    if ending.status == 0:
        return ""
    said = " ".join(ending.describe().split())  # one line, whatever an exception's message was
    line = f"taskgraph: {said or 'the job ended'} (status {ending.status})"
    return f"{ending.details.rstrip()}\n{line}" if ending.details else line
