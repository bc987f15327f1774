"""What a rank shows of its job on stderr: the root how far it is, one rank why it failed."""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal

from taskgraph.backends.launcher import Launched, launchers, terminal
from taskgraph.backends.processes import Process
from taskgraph.config import Config
from taskgraph.ids import Epoch
from taskgraph.plan.ending import Ending
from taskgraph.plan.manifest import Name
from taskgraph.report.failure import failure
from taskgraph.report.progress import Progress
from taskgraph.report.recovery import recovery, resumption, survival
from taskgraph.run.rank.timeline import Recovered, Survived
from taskgraph.run.start.mortality import survives

log = logging.getLogger(__name__)


class Reporter:
    """The `Observer` of a driver."""

    def __init__(self, config: Config, launched: Launched | None) -> None:
        self._epochs = config.epochs
        self._progress = Progress(_mode(config, launched), name=config.name)

    def progress(self, epochs: Epoch) -> None:
        """Draw, if it is time to."""
        self._progress.update(epochs, self._epochs)

    def resumes(self, checkpoint: Name, where: str) -> None:
        """Print the line that says where the job goes on."""
        self._say(resumption(checkpoint, where))

    def recovered(self, recovered: Recovered) -> None:
        """Print the line that says what was lost and where the job goes on."""
        mortal = "" if survives(os.environ) else "; under this launch line the launcher may end the job now"
        self._say(recovery(recovered) + mortal)

    def survived(self, survived: Survived) -> None:
        """Print what the job went through."""
        self._say(survival(survived))

    def failed(self, ending: Ending) -> None:
        """Print the traceback and the line that says where and why."""
        self._progress.close()
        self._say(failure(ending))

    def close(self) -> None:
        """Draw for the last time."""
        self._progress.close()

    def _say(self, text: str) -> None:
        if sys.stderr is None:
            return
        try:
            sys.stderr.write(text + "\n")  # in one piece: other ranks may write as well
            sys.stderr.flush()
        except Exception as error:  # the launcher is gone, the stream was closed, or it is one of the user's own
            log.warning("not shown, for %s: %s", error, text)


def _mode(config: Config, launched: Launched | None) -> Literal["bar", "lines", "off"]:
    """Choose what to draw. Under a launcher stderr is a pipe: what counts is where the launcher's own goes."""
    if config.progress != "auto":
        return config.progress
    if launched is None:
        return "bar" if sys.stderr is not None and sys.stderr.isatty() else "lines"
    return "bar" if any(terminal(process) for process in launchers(Process.current())) else "lines"
