"""What a supervisor and its job know of each other: one option of the job, and a private directory on their machine.

The supervisor says by the option ``supervised`` which attempt of which run this is. Ranks and keepers on its machine
write there how the job stands: that a rank came to its start, where it resumed, how it ended. Each is one small file,
written once, whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from taskgraph.backends.processes import Process
from taskgraph.errors import UsageError
from taskgraph.ids import Epoch
from taskgraph.plan.ending import Ending
from taskgraph.plan.relaunch import Attempt, run_of
from taskgraph.run.host.directory import check_private, machine, remove_private, shared_memory
from taskgraph.run.host.files import read_process, write_atomically, write_process

_TEXT = re.compile(r"(\d{1,4}):([0-9a-f]{13}):(/.+)")
_DIGITS = 13


@dataclass(frozen=True, slots=True)
class Supervised:
    """One attempt of a supervised run.

    Attributes
    ----------
    attempt
        Its number, from 0.
    series
        Random identity of all attempts together: snapshots of one may be used by the next.
    directory
        Where the supervisor looks, on its own machine.
    """

    attempt: int
    series: str
    directory: Path

    @classmethod
    def decode(cls, text: str) -> Supervised:
        """Read the option. Raises UsageError where it is none that a supervisor wrote."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise UsageError(f"supervised={text!r} is not for you to set: 'taskgraph run' does")
        return cls(int(match[1]), match[2], Path(match[3]))

    def encode(self) -> str:
        """Return the option."""
        return f"{self.attempt}:{self.series}:{self.directory}"

    @property
    def run(self) -> str:
        """Identity of the run that this attempt is."""
        return run_of(self.attempt, self.series)

    # ---- for the ranks and the keeper ----

    def supervisor(self) -> Process | None:
        """Return the process of the supervisor, where it runs on this machine."""
        owner = self.directory / "owner"
        try:
            check_private(self.directory)
            here = owner.read_text(encoding="utf-8").split("\n", 1)[1] == machine()
        except (UsageError, OSError, IndexError):
            return None
        return read_process(owner) if here else None

    def reached(self) -> None:
        """Say that a rank came to the start of its job."""
        self._say("reached", "")

    def resumed(self, boundary: Epoch, why: str) -> None:
        """Say where this attempt goes on from."""
        self._say("resumed", json.dumps([boundary, why]))

    def ended(self, ending: Ending) -> None:
        """Say how the job ended. The first to say so rules."""
        self._say("ended", ending.encode().decode())

    def _say(self, what: str, text: str) -> None:
        path = self._file(what)
        if self.supervisor() is not None and not path.exists():
            with contextlib.suppress(OSError):  # the supervisor is just leaving
                write_atomically(path, text)

    def _file(self, what: str) -> Path:
        return self.directory / f"{self.attempt}.{what}"

    # ---- for all ----

    def has_begun_before(self) -> bool:
        """Whether an earlier attempt had come so far that something may have been committed."""
        return any(Supervised(n, self.series, self.directory).has_begun for n in range(self.attempt))

    @property
    def has_begun(self) -> bool:
        """Whether this attempt has come so far."""
        return self._file("resumed").exists()

    # ---- for the supervisor ----

    @classmethod
    def begin(cls, base: Path | None = None) -> Supervised:
        """Make the directory, and return the first attempt."""
        series = os.urandom(7).hex()[:_DIGITS]
        directory = (base or shared_memory()) / f"taskgraph-{os.geteuid()}-supervisor-{series[:8]}-0"
        directory.mkdir(mode=0o700)
        write_process(directory / "owner", Process.current(), machine())
        return cls(0, series, directory)

    def next(self) -> Supervised:
        """Return the attempt that follows."""
        return Supervised(self.attempt + 1, self.series, self.directory)

    def look(self, status: int, interrupted: int = 0) -> Attempt:
        """Return what is known of this attempt, whose launcher ended with a status."""
        return Attempt(
            status=status,
            reached=self._file("reached").exists(),
            boundary=self.where()[0],
            ending=self._ending(),
            interrupted=interrupted,
        )

    def where(self) -> tuple[Epoch | None, str]:
        """Return where the attempt resumed, and why there; None: it did not get so far."""
        try:
            boundary, why = json.loads(self._file("resumed").read_text(encoding="utf-8"))
            return int(boundary), str(why)
        except (OSError, ValueError, TypeError):
            return None, ""

    def _ending(self) -> Ending | None:
        try:
            return Ending.decode(self._file("ended").read_bytes())
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Remove the directory: keepers that hold snapshots for another attempt see that there will be none."""
        remove_private(self.directory)
