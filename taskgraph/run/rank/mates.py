"""A thread of each rank that watches one other rank of its host: the next one that lives, in a ring.

The keeper watches all of them; should it die with one of them, a rank still sees the other die, and then watches the
one after it. So a rank has one process to wait for, however many there are, and no death wakes more than one rank. The
thread waits in the kernel without the GIL and costs nothing meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from taskgraph.backends.observed import Observed
from taskgraph.backends.processes import Watch
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.roster import Entry, has_left, read_roster
from taskgraph.run.keeper.rank_watch import describe

log = logging.getLogger(__name__)

Accuse = Callable[[int, str, float], None]
"""Called with the index of a rank that is dead, how it ended, and when that was seen (seconds since 1970)."""


class Mates:
    """Watches the ranks of the host after this one.

    Parameters
    ----------
    directory
        Of the host; every rank of it is in the roster.
    index
        Of this rank on its host.
    accuse
        Called in the thread of this object.
    """

    def __init__(self, directory: HostDir, index: int, accuse: Accuse) -> None:
        roster = read_roster(directory)
        after = [entry for entry in roster if entry.index > index]
        before = [entry for entry in roster if entry.index < index]
        self._ring = [*after, *before]
        self._has_left = partial(has_left, directory)
        self._accuse = accuse
        self._watch = Watch()
        self._passed_over: set[int] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskgraph-mates", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def pass_over(self, index: int) -> None:
        """Watch a rank no longer, since it is known to be dead though its process may not be gone. From any thread."""
        self._passed_over.add(index)
        self._watch.wake()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._watch.wake()
        self._thread.join(1.0)

    def _run(self) -> None:
        try:
            for mate in self._ring:
                self._outlive(mate)
                if self._closing.is_set():
                    return
        except Exception:
            log.exception("this rank watches no other rank any more: the keeper does")
        finally:
            self._watch.close()

    def _outlive(self, mate: Entry) -> None:
        """Wait for the end of a rank, and report it unless it has left in order."""
        observed = Observed(mate.process)
        self._watch.add(mate.process)
        ended = False
        while not (ended or self._closing.is_set() or mate.index in self._passed_over):
            ended = mate.process in self._watch.wait(60.0)
        self._watch.remove(mate.process)
        if ended and not self._has_left(mate.index):
            observed.condition()
            self._accuse(mate.index, describe(mate.process, observed.exit()), time.time())
        observed.close()
