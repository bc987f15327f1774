"""What a keeper sees of its host: who is there, who died, whether the launcher lives, and when to look again."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial

from taskgraph.backends.launcher import LeftFile, mapped_files, mpi_files
from taskgraph.backends.processes import Process, Watch, alive
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import read_process
from taskgraph.run.host.keeper_spec import KeeperSpec
from taskgraph.run.host.roster import Entry, close_roster, has_left, read_roster
from taskgraph.run.keeper.rank_watch import Death, RankWatch


class HostView:
    """The ranks of one host and what started them. For one thread, `wake` excepted.

    Parameters
    ----------
    directory
        Of the host.
    spec
        What the keeper was told.
    died
        Is told of each death, once.

    Attributes
    ----------
    roster
        The ranks, as of the last look.
    files
        What MPI made for them, and a killed launcher leaves behind.
    """

    def __init__(self, directory: HostDir, spec: KeeperSpec, died: Callable[[Death], None]) -> None:
        self._directory = directory
        self._spec = spec
        self._died = died
        self._watch = Watch()
        self._bell = os.open(directory.bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch.add_descriptor(self._bell)
        self._ranks = RankWatch(partial(has_left, directory), spec.launcher, spec.lease_s)
        self.roster: list[Entry] = []
        self.files: set[LeftFile] = set()
        for process in (*spec.launcher, *([spec.supervisor] if spec.supervisor else [])):
            self._watch.add(process)

    def hush(self) -> None:
        """Take note of the bell."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._bell, 4096):
                pass

    def look(self) -> None:
        """Look at the roster and the ranks."""
        self._know(read_roster(self._directory))
        for entry in self.roster:
            if entry.left:
                self._watch.remove(entry.process)
            else:
                self._watch.add(entry.process)
        self._look_at_ranks()

    def wait(self, seconds: float) -> None:
        """Wait until something has happened, or for so long; meanwhile look at the ranks."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._watch.wait(min(left_s, self._ranks.every_s))
            self._look_at_ranks()
            if not self._watch.quiet:
                return

    def wake(self) -> None:
        """End a wait, from any thread."""
        self._watch.wake()

    def watch(self, process: Process) -> None:
        """Let the end of a process end a wait too."""
        self._watch.add(process)

    def close_roster(self) -> None:
        """Let no rank be added any more."""
        self._know(close_roster(self._directory))

    def note_files(self, process: Process) -> None:
        """Take note of what MPI made for a rank that is about to be killed."""
        self.files.update(mpi_files({}, mapped_files(process)))

    def _know(self, roster: list[Entry]) -> None:
        self.roster = roster
        self._ranks.know(roster)
        self.files.update(file for entry in roster for file in entry.files)

    def _look_at_ranks(self) -> None:
        for death in self._ranks.look():
            self._died(death)

    # ---- what is so ----

    def launcher_gone(self) -> bool:
        """Whether a process that launched the ranks has ended."""
        return not all(map(alive, self._spec.launcher))

    def living(self) -> list[Process]:
        """Return the ranks that are there and have not left."""
        return [entry.process for entry in self.roster if not entry.left and alive(entry.process)]

    def is_deserted(self) -> bool:
        """Whether no rank is left and none will come."""
        if self.living():
            return False
        if len(self.roster) >= len(self._spec.ranks):
            return True
        if self._spec.launcher:
            return self.launcher_gone()
        owner = read_process(self._directory.owner)
        return owner is None or not alive(owner)

    def all_left(self) -> bool:
        """Whether there were ranks, and all of them said that they leave."""
        return bool(self.roster) and all(entry.left for entry in self.roster)
