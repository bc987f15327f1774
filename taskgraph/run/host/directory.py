"""The private directory of one host of one run: what its ranks and its keeper share, and the names of the files in it.

It lies in shared memory where there is some: then it is gone after a reboot, and nothing in it waits for a disk. Only
its user can read it, since it holds the secrets of etcd.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from taskgraph.backends.processes import Process
from taskgraph.errors import UsageError
from taskgraph.run.host.files import write_process

SHARED_MEMORY = Path("/dev/shm")
_ETCD_BYTES = 256 << 20  # etcd lays its write-ahead log out 64 MB at a time, and may have two


@dataclass(frozen=True, slots=True)
class HostDir:
    """A directory that `create` made, and what its files are called."""

    path: Path

    @property
    def slots(self) -> Path:
        """The directory of the snapshots."""
        return self.path / "slots"

    @property
    def commits(self) -> Path:
        """What the ranks have heard of commits."""
        return self.path / "commits"

    @property
    def words(self) -> Path:
        """The abort words of the ranks."""
        return self.path / "words"

    @property
    def owner(self) -> Path:
        """The process that made the directory, and where it ran: so that a forgotten one can be told."""
        return self.path / "owner"

    @property
    def spec(self) -> Path:
        """What the keeper is to do."""
        return self.path / "spec"

    @property
    def keeper(self) -> Path:
        """The process that is the keeper."""
        return self.path / "keeper"

    @property
    def keeper_lock(self) -> Path:
        """Locked as long as a keeper lives, so there are never two."""
        return self.path / "keeper.lock"

    @property
    def start_lock(self) -> Path:
        """Locked while somebody starts a keeper, so that not every rank does at once."""
        return self.path / "start.lock"

    @property
    def etcd_access(self) -> Path:
        """How etcd is reached, secrets included."""
        return self.path / "etcd"

    @property
    def problem(self) -> Path:
        """Why the keeper could not begin: one message for a person."""
        return self.path / "problem"

    @property
    def over(self) -> Path:
        """There once a rank has left a job that is over for good."""
        return self.path / "over"

    @property
    def bell(self) -> Path:
        """A pipe: a byte in it makes the keeper look at the ranks."""
        return self.path / "bell"

    @property
    def ranks(self) -> Path:
        """A directory with one file for each rank."""
        return self.path / "ranks"

    @property
    def log(self) -> Path:
        """What the keeper logs and prints."""
        return self.path / "keeper.log"

    @property
    def run_prefix(self) -> str:
        """What the names of all directories of the same run begin with."""
        return self.path.name.rpartition("-")[0] + "-"

    @classmethod
    def create(cls, job: str, run: str, index: int, *, base: Path | None = None) -> HostDir:
        """Make the directory of this run's host number `index`. One rank of that host does, the others `open` it.

        Parameters
        ----------
        job, run
            Name of the job, and random identity of its run, of which the first 8 characters count.
        index
            Number of the host in the job.
        base
            Where to make it. None: in shared memory, or where temporary files go.

        Raises
        ------
        UsageError
            It cannot be made, or is there already.
        """
        path = (base or shared_memory()) / f"taskgraph-{os.geteuid()}-{job}-{run[:8]}-{index}"
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            raise UsageError(
                f"{path} is there already and not ours: another run made it; if that is over, remove it"
            ) from None
        except OSError as error:
            raise UsageError(
                f"{path} cannot be made ({error}): set TMPDIR to a directory that you may write"
            ) from error
        directory = cls(path)
        write_process(directory.owner, Process.current(), machine())
        directory.ranks.mkdir(mode=0o700)
        os.mkfifo(directory.bell, 0o600)
        return directory

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> HostDir:
        """Take a directory that another process of this host made.

        Raises
        ------
        UsageError
            It is missing, a link, another user's, or open to others.
        """
        check_private(Path(path))
        return cls(Path(path))

    def exists(self) -> bool:
        """Whether it has not been removed."""
        return self.path.is_dir()

    def etcd_data(self) -> Path:
        """Return where the etcd of this run keeps its data: beside this directory, as it may outlive this host.

        In shared memory only where there is room: a container may have 64 MB of it.
        """
        base = self.path.parent
        if base == SHARED_MEMORY and not (base / f"{self.run_prefix}etcd").exists():
            space = os.statvfs(base)
            if space.f_bavail * space.f_frsize < _ETCD_BYTES:
                base = Path(tempfile.gettempdir())
        return base / f"{self.run_prefix}etcd"

    def mark_over(self) -> None:
        """Say that the job is over for good: nothing here is needed by a later launch."""
        with contextlib.suppress(OSError):
            os.close(os.open(self.over, os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))

    def ring(self) -> None:
        """Make the keeper look at the ranks now. Without a keeper, do nothing."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.bell, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"\0")
            finally:
                os.close(descriptor)

    def remove(self) -> None:
        """Remove it with all that is in it. Links are removed, never followed. Idempotent."""
        remove_private(self.path)


def remove_private(path: Path) -> None:
    """Remove a directory that only we can read, with all that is in it; anything else is left alone. Idempotent."""
    for _ in range(3):  # somebody may still be adding to it
        try:
            check_private(path)
        except UsageError:
            return
        shutil.rmtree(path, ignore_errors=True)


def machine() -> str:
    """Name this boot of this machine, and the view of its processes: a pid means something only within one of these."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "unknown"


def shared_memory() -> Path:
    """Return where the directories of all runs lie: in shared memory, or where temporary files go."""
    return SHARED_MEMORY if _is_tmpfs(SHARED_MEMORY) else Path(tempfile.gettempdir())


def _is_tmpfs(path: Path) -> bool:
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    kinds = [fields[2] for line in mounts.splitlines() if (fields := line.split())[1] == str(path)]
    return kinds[-1:] == ["tmpfs"] and os.access(path, os.W_OK | os.X_OK)


def check_private(path: Path) -> None:
    """Raise UsageError where a path is no directory that only we can read."""
    try:
        status = path.lstat()
    except OSError as error:
        raise UsageError(f"{path} cannot be used: {error}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise UsageError(f"{path} is not a private directory of ours: it must be no link, ours, and of mode 0700")
