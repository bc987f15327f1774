"""The launcher of the MPI that the extension was compiled for, and what it has to be told to run a job of ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskgraph._native.mpi import Mpi
from taskgraph.errors import UsageError

_NAMES = ("mpirun", "mpiexec", "mpirun.openmpi", "mpiexec.hydra", "mpirun.mpich", "mpiexec.mpich", "mpirun.intel")
_OPEN_MPI = re.compile(r"\((?:Open MPI|OpenRTE)\) ([\w.]+)")  # the second under names such as mpirun.openmpi
_INTEL = re.compile(r"Intel\(R\) MPI Library[^\n]*?Version ([\w.]+)")
_HYDRA = re.compile(r"HYDRA build details:\s*Version:\s*([\w.]+)")
_ASK_S = 60.0

# PRRTE ends the whole job when it notices that a host is silent: the job itself notices sooner, and goes on without.
_LONG_SUFFERING = ("--prtemca", "oob_tcp_keepalive_time", str(30 * 24 * 3600))

# What a job needs of its user's environment on every host; Open MPI passes on what it is told to, and no more.
_PASSED_ON = re.compile(r"TASKGRAPH_\w+|PYTHON\w+|(OMP|OPENBLAS|MKL|NUMEXPR)_NUM_THREADS|VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Launcher:
    """A launcher.

    Attributes
    ----------
    path
        Of its program.
    mpi
        The implementation it belongs to; of MPICH's Hydra, which several have, ``"MPICH"``.
    """

    path: str
    mpi: Mpi

    @property
    def survives_ranks(self) -> bool:
        """Whether a job can go on when one of its ranks dies."""
        return self.mpi.name == "Open MPI" and int(self.mpi.version.split(".")[0]) >= 5


def find_launcher(built: Mpi, environ: Mapping[str, str]) -> Launcher:
    """Return a launcher of this MPI: beside this Python, else on PATH.

    Raises
    ------
    UsageError
        There is none; the message names what was found instead.
    """
    others = []
    for path in _candidates(environ.get("PATH", os.defpath)):
        launcher = identify_launcher(path, environ)
        if launcher is not None and _belongs(launcher.mpi, built):
            return launcher
        others.append(f"{path} ({launcher.mpi if launcher else 'of an unknown MPI'})")
    found = f"; found: {', '.join(others)}" if others else ""
    raise UsageError(
        f"no mpirun of {built}, for which taskgraph was compiled, is beside {sys.executable} or on PATH{found}"
    )


def _candidates(path: str) -> Iterator[str]:
    places = [str(Path(sys.executable).parent), *path.split(os.pathsep)]
    seen = set()
    for place in places:
        for name in _NAMES:
            found = shutil.which(name, path=place)
            if found is not None and os.path.realpath(found) not in seen:
                seen.add(os.path.realpath(found))
                yield found


def identify_launcher(path: str, environ: Mapping[str, str]) -> Launcher | None:
    """Ask a launcher which MPI it belongs to. None where it does not say."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_ASK_S, env=dict(environ))
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = answer.stdout + answer.stderr
    for name, pattern in (("Open MPI", _OPEN_MPI), ("Intel MPI", _INTEL), ("MPICH", _HYDRA)):
        if match := pattern.search(text):
            return Launcher(path, Mpi(name, match[1]))
    return None


def _belongs(launcher: Mpi, built: Mpi) -> bool:
    if launcher.name == "MPICH":  # any Hydra starts whatever speaks its protocol
        return built.name in ("MPICH", "MVAPICH")
    return launcher.fits(built)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where ranks are to run.

    Attributes
    ----------
    ranks
        How many.
    cores
        How many each host has.
    oversubscribed
        Whether a host is given more ranks than it has cores, whatever the numbers say.
    slots
        By host: how many ranks it takes. Empty: the launcher knows better.
    hosts
        How many there are.
    in_slurm
        Whether the launcher starts its daemons through Slurm.
    again
        Whether it has started some there before.
    """

    ranks: int
    cores: int
    oversubscribed: bool = False
    slots: Mapping[str, int] = field(default_factory=dict)
    hosts: int = 1
    in_slurm: bool = False
    again: bool = False

    @property
    def is_crowded(self) -> bool:
        """Whether some host has fewer cores than ranks."""
        densest = max(self.slots.values(), default=0)
        return self.oversubscribed or max(densest, -(-self.ranks // self.hosts)) > self.cores


def launch_line(
    launcher: Launcher, where: Where, options: Sequence[str], program: Sequence[str], environ: Mapping[str, str]
) -> list[str]:
    """Return the command that starts ranks.

    Parameters
    ----------
    options
        The user's own for the launcher. They come last, and so rule.
    program
        Program and arguments.
    environ
        Whose variables the ranks are to have.
    """
    words = [launcher.path]
    if launcher.mpi.name == "Open MPI":
        words += _open_mpi(launcher, where, options)
        for variable in _passed_on(environ):
            words += ["-x", variable]
    elif where.slots:
        words += ["-hosts", ",".join(f"{host}:{slots}" for host, slots in where.slots.items())]
    return [*words, "-n", str(where.ranks), *options, *program]


def _open_mpi(launcher: Launcher, where: Where, options: Sequence[str]) -> list[str]:
    said = " ".join(options)
    words = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    if launcher.survives_ranks and "--with-ft" not in options:
        words += ["--with-ft", "ulfm"]
    if where.is_crowded and "bind-to" not in said:
        words += ["--bind-to", "none"]
    if where.slots:
        words += ["--host", ",".join(f"{host}:{slots}" for host, slots in where.slots.items())]
    elif where.is_crowded and not re.search(r"oversubscribe|map-by|host|rankfile", said, re.IGNORECASE):
        words += ["--oversubscribe"]
    if launcher.survives_ranks and where.hosts > 1:
        words += _LONG_SUFFERING
        words += ["--prtemca", "plm_slurm_args", _srun(where)] if where.in_slurm else []
    return words


def _srun(where: Where) -> str:
    """Return what srun is told: to let a host go, and after a loss not to wait for what still counts as in use."""
    return "--no-kill --overlap" if where.again else "--no-kill"


def _passed_on(environ: Mapping[str, str]) -> list[str]:
    return sorted(name for name in environ if _PASSED_ON.fullmatch(name))
