"""SIGUSR1 and SIGTERM at a rank: batch systems send them before they end a job.

Taken over while the job runs and there is somewhere to write a checkpoint to; a handler that the program has set is
left alone. What runs in the handler is one call: the rest is done by the thread that writes checkpoints.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

TAKEN = (signal.SIGUSR1, signal.SIGTERM)


class PauseSignals:
    """Calls `pause` with the reason when one of them comes."""

    def __init__(self, pause: Callable[[str], None]) -> None:
        self._pause = pause
        self._taken: list[signal.Signals] = []

    def open(self) -> None:
        """Take the signals over; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in TAKEN:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._came)
                    self._taken.append(number)

    def close(self) -> None:
        """Give them back."""
        if threading.current_thread() is threading.main_thread():
            while self._taken:
                signal.signal(self._taken.pop(), signal.SIG_DFL)

    def _came(self, number: int, frame: FrameType | None) -> None:
        self._pause(f"it got {signal.Signals(number).name}")
