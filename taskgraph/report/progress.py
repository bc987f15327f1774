"""Tell a person how far the job is, and never hold it up for that."""

from __future__ import annotations

import io
import logging
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TextIO

from taskgraph.ids import Epoch
from taskgraph.report.pace import Pace

if TYPE_CHECKING:
    from taskgraph.report.bar import Bar

log = logging.getLogger(__name__)

BAR_EVERY_S = 0.1
LINE_EVERY_S = 10.0


class Progress:
    """How far the job is, on stderr. Its methods may be called from any thread and never raise.

    Parameters
    ----------
    mode
        ``"bar"`` draws a bar, also where the stream is no terminal: under a launcher it is a pipe to one.
        ``"lines"`` writes a line every ten seconds, none before the first ten. ``"off"`` writes nothing.
    name
        The job's name, shown before the figures.
    stream
        Where to; by default ``sys.stderr``.
    clock
        Returns seconds.
    """

    def __init__(
        self,
        mode: Literal["bar", "lines", "off"],
        *,
        name: str = "",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        # A process whose stderr was closed before it started has None there, whatever its type says.
        self._mode = mode if self._stream is not None else "off"
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._pace = Pace()
        self._bar: Bar | None = None
        self._shown: tuple[Epoch, int | None] | None = None
        self._latest: tuple[Epoch, int | None] = (0, None)
        self._next = clock() + (LINE_EVERY_S if mode == "lines" else 0)

    def update(self, epoch: Epoch, epochs: int | None = None) -> None:
        """Note that `epoch` epochs of `epochs` (None: nobody knows) are finished. Call as often as you like."""
        now = self._clock()
        self._latest = (epoch, epochs)
        if now < self._next or self._mode == "off" or not self._lock.acquire(blocking=False):
            return
        try:
            self._next = now + (LINE_EVERY_S if self._mode == "lines" else BAR_EVERY_S)
            self._pace.note(now, epoch)
            self._show()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Draw the bar for the last time; nothing is shown from here on."""
        if not self._lock.acquire(timeout=1):  # somebody hangs in a write: there is nothing left to show it on
            return
        try:
            if self._bar is not None and self._mode == "bar":
                if self._shown != self._latest:
                    self._show()
                self._attempt(self._bar.finish)
            self._mode = "off"
        finally:
            self._lock.release()

    def _show(self) -> None:
        epoch, epochs = self._shown = self._latest
        if self._mode == "bar":
            self._attempt(lambda: self._draw(epoch, epochs))
        elif self._mode == "lines":
            figures = [f"epoch {epoch}" + (f" of {epochs}" if epochs is not None else ""), str(self._pace)]
            line = (f"{self._name}: " if self._name else "") + ", ".join(filter(None, figures))
            self._attempt(lambda: print(line, file=self._stream, flush=True))

    def _draw(self, epoch: Epoch, epochs: int | None) -> None:
        if self._bar is None:
            from taskgraph.report.bar import Bar  # rich takes a tenth of a second to import

            self._bar = Bar(self._name, self._stream)
        self._bar.draw(epoch, epochs, str(self._pace))

    def _attempt(self, write: Callable[[], None]) -> None:
        """Write if that goes through at once. A stream that fails is left alone from then on."""
        try:
            if _has_room(self._stream):
                write()
        except Exception as error:  # the launcher is gone, the stream was closed, or it is one of the user's own
            log.debug("progress is off: %s", error)
            self._mode = "off"


def _has_room(stream: TextIO) -> bool:
    """Tell whether a short write will not block; it would where nobody empties the launcher's pipe."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return True
    return bool(select.select([], [descriptor], [], 0)[1])
