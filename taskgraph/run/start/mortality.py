"""Whether a job survives the death of a rank under the launch line that it was started with, and what to write instead.

Only one line lets it live on in place: Open MPI 5 with ULFM. Others end the job, or tell nobody.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

_ULFM = "OMPI_MCA_mpi_ft_enable"
"""``mpirun --with-ft ulfm`` sets it in each rank."""


def survives(environ: Mapping[str, str]) -> bool:
    """Tell whether the launcher lets the other ranks live when one dies."""
    return environ.get(_ULFM, "").lower() in ("1", "true", "yes", "on")


def better(ranks: int, argv: Sequence[str]) -> str:
    """Return the line that does, for a program that was started as `argv`."""
    python, *arguments = argv or ["python", "driver.py"]
    return shlex.join(["mpirun", "--with-ft", "ulfm", "-n", str(ranks), Path(python).name, *arguments])


def warn_of_mortality(ranks: int, environ: Mapping[str, str], argv: Sequence[str]) -> None:
    """Say so where the death of one rank ends the job; a job of one rank has no other to live on.

    Under ``taskgraph run`` it is launched again.
    """
    if ranks > 1 and not survives(environ) and not environ.get("TASKGRAPH_SUPERVISED"):
        other = "" if "OMPI_COMM_WORLD_RANK" in environ else " of Open MPI 5"
        log.warning(
            "this job ends when one of its ranks dies; under this line%s it goes on: %s", other, better(ranks, argv)
        )
