"""A progress bar in the last line of a terminal that may be at the far end of the launcher's pipe."""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from taskgraph.ids import Epoch

CLEAR_TO_END = "\x1b[K"


class Bar:
    """Draw on a stream that leads to a terminal, whether or not it is one itself.

    Only rich's pictures are used, not its live display: that hides the cursor, which a killed rank would leave
    hidden, and moves it up line by line, which goes wrong where other ranks print to the same terminal.
    """

    def __init__(self, name: str, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._picture = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[pace]}"),
            console=self._console,
            auto_refresh=False,
        )
        self._line = self._picture.add_task(name, total=None, pace="")

    def draw(self, epoch: Epoch, epochs: int | None, pace: str) -> None:
        """Replace the line that was drawn before, in one write."""
        self._picture.update(self._line, completed=epoch, total=epochs, pace=pace)
        with self._console.capture() as captured:
            width = _width(self._stream) - 1  # a full last column makes some terminals wrap
            self._console.print(self._picture.get_renderable(), width=width, no_wrap=True, crop=True, end="")
        self._stream.write("\r" + captured.get().rstrip("\n") + CLEAR_TO_END)
        self._stream.flush()

    def finish(self) -> None:
        """Leave the line as it is; what comes next starts a new one."""
        self._stream.write("\n")
        self._stream.flush()


def _width(stream: TextIO) -> int:
    """Return the columns of the terminal: of the stream itself, else of the one that the job was started from."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        pass
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return 80
    try:
        return os.get_terminal_size(terminal).columns or 80
    except OSError:
        return 80
    finally:
        os.close(terminal)
