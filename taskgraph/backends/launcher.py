"""Who started this process: which MPI launcher, as which rank, and what it left lying about for it.

Everything is read from the environment and from ``/proc``; MPI is not asked, so this is known before MPI starts, and
without it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from taskgraph.backends.processes import Process, ancestors, everyone, name


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """What a launcher told the rank that it started.

    Attributes
    ----------
    size
        Number of processes; None where the environment does not tell.
    launcher
        Its family, for messages.
    """

    size: int | None
    launcher: str


class _Family(NamedTuple):
    launcher: str
    rank: str
    size: str | None


# The first whose rank and size are both set is the one. SLURM_PROCID is in none of them: a batch script has it as well.
_FAMILIES = (
    _Family("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    _Family("MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    _Family("MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE"),  # their Hydra
    _Family("PMI", "PMI_RANK", "PMI_SIZE"),  # srun --mpi=pmi2
    _Family("srun --mpi=pmix", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    _Family("PMIx", "PMIX_RANK", None),
)

# Command names as the kernel keeps them: cut to 15 characters.
_LAUNCHERS = frozenset(
    command[:15]
    for command in (
        "mpirun",
        "mpiexec",
        "mpiexec.hydra",
        "mpiexec.gforker",
        "mpirun.openmpi",
        "mpiexec.openmpi",
        "mpirun.mpich",
        "mpiexec.mpich",
        "orterun",
        "orted",
        "oshrun",
        "prterun",
        "prterun-bin",
        "prun",
        "prte",
        "prted",
        "hydra_pmi_proxy",
        "hydra_bstrap_proxy",
        "pmi_proxy",
        "slurmstepd",
    )
)

LAUNCHERS_OWN = ("PMIX_", "PMI_", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPIR_CVAR_", "I_MPI_")
"""How the variables begin that a launcher sets for its ranks, and a user for MPI. A process that has them would be
taken for a rank by MPI, and waited for by the launcher."""

# Shared memory that MPI libraries make for their ranks, wherever they put it: Open MPI 5 and 4, MPICH, Intel MPI.
_SEGMENT = re.compile(r"(sm_segment|vader_segment|mpich_shar_tmp|mpich_|psm2_shm|Intel_MPI_)[^/]*")


def detect(environ: Mapping[str, str]) -> Launched | None:
    """Tell whether a launcher started this process as a rank.

    Parameters
    ----------
    environ
        Usually ``os.environ``.

    Returns
    -------
    Launched or None
        None for a plain ``python driver.py``, also in a Slurm batch script.
    """
    for family in _FAMILIES:
        needed = [variable for variable in (family.rank, family.size) if variable is not None]
        if family.launcher == "MPICH or Intel MPI":
            needed.append("MPI_LOCALRANKID")
        if not all(environ.get(variable, "").isdigit() for variable in needed):
            continue
        return Launched(size=None if family.size is None else int(environ[family.size]), launcher=family.launcher)
    return None


def launchers(process: Process) -> tuple[Process, ...]:
    """Return the processes of this machine that launched a rank, the nearest first.

    There may be scripts and tools between the rank and its launcher, and several launcher processes in a row: a daemon
    or proxy, ``mpiexec``, a script that started that. Nothing above them belongs to the job. Empty where none is
    found.
    """
    found: list[Process] = []
    for ancestor in ancestors(process):
        if name(ancestor) in _LAUNCHERS:
            found.append(ancestor)
        elif found:
            break
    return tuple(found)


class LeftFile(NamedTuple):
    """A file to remove if its launcher dies without removing it: path, and device and inode when seen."""

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> LeftFile | None:
        """Name what lies at `path` now, links not followed. None where nothing does, or it is another user's."""
        try:
            status = os.lstat(path)
        except OSError:
            return None
        if status.st_uid != os.geteuid():
            return None
        return cls(os.fspath(path), status.st_dev, status.st_ino)

    def still_there(self) -> bool:
        """Whether the path still leads to the same file, not to a later one of the same name."""
        return LeftFile.of(self.path) == self


def mpi_files(environ: Mapping[str, str], mapped: Iterable[str] | None = None) -> tuple[LeftFile, ...]:
    """Return what the MPI library and its launcher made for this rank and a killed launcher leaves behind.

    Parameters
    ----------
    environ
        Usually ``os.environ``; Open MPI names its directory in ``PMIX_SERVER_TMPDIR``.
    mapped
        The files that the process has mapped; None: those of the calling process. Call it once MPI is up.
    """
    directory = environ.get("PMIX_SERVER_TMPDIR")
    shared = {"/dev/shm", "/tmp", environ.get("TMPDIR", "/tmp").rstrip("/")}
    paths = {
        path
        for path in (mapped_files() if mapped is None else mapped)
        if os.path.dirname(path) in shared and _SEGMENT.fullmatch(os.path.basename(path))
    }
    if directory and _is_own_directory(directory):
        paths = {path for path in paths if not path.startswith(directory + "/")} | {directory}
    return tuple(left for path in sorted(paths) if (left := LeftFile.of(path)) is not None)


def own_segments(environ: Mapping[str, str]) -> list[str]:
    """Return what MPI keeps in shared memory for the calling rank."""
    return [file.path for file in mpi_files(environ) if file.path.startswith("/dev/shm/") and file.still_there()]


def remove_own_segments(environ: Mapping[str, str]) -> None:
    """Remove what MPI keeps in shared memory for a rank that leaves without MPI, or whose launcher may die."""
    for path in own_segments(environ):
        with contextlib.suppress(OSError):  # others of the job do the same
            os.unlink(path)


def unused_segments() -> frozenset[LeftFile]:
    """Return this user's shared memory of MPI libraries that no process has mapped: its job is over, or begins."""
    found = mpi_files({}, [f"{place}/{name}" for place in ("/dev/shm", "/tmp") for name in os.listdir(place)])
    used = {path for process in everyone() for path in mapped_files(process)} if found else frozenset()
    return frozenset(file for file in found if file.path not in used)


def _is_own_directory(directory: str) -> bool:
    """Whether a directory is the launcher's own, as ``/tmp/ompi.PID`` is. A site's may be shared: not ours."""
    return re.fullmatch(r"(ompi|prte|prted|prterun|pmix)[.-].*", os.path.basename(directory)) is not None


def mapped_files(process: Process | None = None) -> frozenset[str]:
    """Return the paths of all files that a process has mapped: the calling one, or another of this user."""
    pid = "self" if process is None else str(process.pid)
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
            fields = [line.split(None, 5) for line in maps]
    except OSError:  # it is gone
        return frozenset()
    return frozenset(field[5].rstrip("\n") for field in fields if len(field) == 6 and field[5].startswith("/"))


def terminal(process: Process) -> bool:
    """Whether a process's standard error is a terminal.

    Launchers give their ranks pipes; the person sits in front of the launcher's. That it is one shows in the link's
    name.
    """
    try:
        target = os.readlink(f"/proc/{process.pid}/fd/2")
    except OSError:
        return False
    return target == "/dev/console" or target.startswith(("/dev/pts/", "/dev/tty"))
