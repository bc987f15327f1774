"""A rank whose main thread does not get on is reported, and nothing else: only a person can tell slow from stuck."""

from __future__ import annotations

import logging
import math
import sys
import threading
import traceback

from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph.backends.coordinator import Coordinator
from taskgraph.ids import Rank

log = logging.getLogger(__name__)


class StallWatch:
    """The duty of a rank's sidecar: look whether its main thread gets on.

    Parameters
    ----------
    timeout_s
        Without progress for so many seconds it is reported, once; 0: never.
    thread
        Identity of the thread to look at; None: the caller's.
    """

    needs_etcd = False

    def __init__(self, rank: Rank, timeout_s: float, thread: int | None = None) -> None:
        self._rank = rank
        self._timeout_s = timeout_s
        self._thread = threading.get_ident() if thread is None else thread
        self._epoch: NativeEpoch | None = None
        self._seen: object = None
        self._since = 0.0
        self._reported = False

    def watch(self, epoch: NativeEpoch) -> None:
        """Look at this epoch from now on."""
        self._epoch = epoch

    def turn(self, coordinator: Coordinator, now: float) -> float:
        """Look."""
        if not self._timeout_s:
            return math.inf
        if self._epoch is None:
            return self._timeout_s / 4
        running, awaited = self._epoch.running, tuple(self._epoch.awaited())
        seen = (self._epoch.number, id(running), awaited if running is None else ())
        if seen != self._seen:
            self._seen, self._since, self._reported = seen, now, False
        elif now - self._since >= self._timeout_s and not self._reported:
            self._reported = True
            log.warning("%s", self._describe(self._epoch, now - self._since))
        return self._timeout_s / 4

    def finish(self, coordinator: Coordinator) -> None:
        """Do nothing."""

    def _describe(self, epoch: NativeEpoch, stalled_s: float) -> str:
        running, awaited = epoch.running, epoch.awaited()
        if running is not None:
            name = getattr(running.compute, "__qualname__", type(running.compute).__name__)
            doing = f"task {running.task} computes in its processor {running.index} ({name})"
        elif awaited:
            doing = f"it waits for {' and '.join(f'channel {channel}' for channel in awaited[:3])}"
            doing += f" and {len(awaited) - 3} more" if len(awaited) > 3 else ""
        else:
            doing = "it is between two epochs"
        frame = sys._current_frames().get(self._thread)
        stack = "" if frame is None else "\n" + "".join(traceback.format_stack(frame)).rstrip()
        return f"rank {self._rank} has made no progress for {stalled_s:.0f} s: epoch {epoch.number}, {doing}{stack}"
