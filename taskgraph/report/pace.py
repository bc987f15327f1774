"""How fast epochs go by."""

from __future__ import annotations

from collections import deque

from taskgraph.ids import Epoch

WINDOW_S = 10.0


class Pace:
    """Epochs per second over the last seconds. Fed a few times a second, by one thread at a time."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Epoch]] = deque()

    def note(self, now: float, epoch: Epoch) -> None:
        """Note that at `now` (seconds) this many epochs were finished."""
        if self._seen and epoch < self._seen[-1][1]:
            self._seen.clear()  # the job resumed from an older boundary: that was no negative speed
        self._seen.append((now, epoch))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()

    def __str__(self) -> str:
        """Say it as a person would; empty while nothing is known or nothing moves."""
        if len(self._seen) < 2:
            return ""
        (before, first), (now, last) = self._seen[0], self._seen[-1]
        if last == first or now <= before:
            return ""
        rate = (last - first) / (now - before)
        return f"{rate:.1f} epochs/s" if rate >= 1 else f"{1 / rate:.1f} s an epoch"
