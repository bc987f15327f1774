"""Compile every ``taskgraph/_native/*.pyx``; those that speak to MPI are linked against the one that is there.

Everything else is in ``pyproject.toml``. What needs an MPI happens when extensions are built, so that metadata and a
source distribution can be made on a machine without one.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "buildsystem"))

from mpi import Mpi, NoMpi, find_mpi  # noqa: E402 - it is buildsystem/mpi.py

NATIVE = Path("taskgraph/_native")
RECORD = "built_with.json"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
MPI_DECLARATION = re.compile(
    r"""\bfrom\s+["']mpi\.h["']|^\s*(from\s+mpi4py\b.*\bcimport|cimport\s+mpi4py|from\s+\S+\.mpih\s+cimport)\b""",
    re.MULTILINE,
)
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "auto_pickle": False,
    "autotestdict": False,
    "freethreading_compatible": False,
}


def speaks_mpi(source: Path) -> bool:
    """Tell whether a module, or the ``.pxd`` beside it, declares anything of ``mpi.h``, itself or through mpi4py."""
    files = (path for path in (source, source.with_suffix(".pxd")) if path.exists())
    return any(MPI_DECLARATION.search(path.read_text(encoding="utf-8")) for path in files)


class BuildNative(build_ext):
    """Translate and compile the modules, and leave beside them a record of the MPI they were compiled for."""

    def run(self) -> None:
        """Complete the descriptions of the modules, build them, then write the record where they went."""
        with_mpi = [module for module in self.extensions if speaks_mpi(ROOT / module.sources[0])]
        mpi = _mpi_or_exit() if with_mpi else None
        places = [Path(self.build_lib) / NATIVE, *([ROOT / NATIVE] if self.inplace else [])]
        _add_numpy(self.extensions)
        if mpi is not None:
            _add_mpi(with_mpi, mpi)
            # Objects of another MPI look up to date by their time.
            self.force = self.force or any(_recorded(place) not in (None, mpi.record()) for place in places)
        self.parallel = self.parallel or CORES
        _translate(self.extensions, force=bool(self.force))
        super().run()
        for place in places:
            if mpi is not None and place.is_dir():
                (place / RECORD).write_text(mpi.record(), encoding="utf-8")


def _mpi_or_exit() -> Mpi:
    try:
        return find_mpi()
    except NoMpi as problem:
        sys.exit(f"error: {problem}")


def _add_numpy(modules: list[Extension]) -> None:
    import numpy as np

    for module in modules:
        module.include_dirs.append(np.get_include())
        module.define_macros.append(("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"))
        # A pointer of the wrong kind is what a wrong declaration in Cython looks like in C.
        module.extra_compile_args.append("-Werror=incompatible-pointer-types")
        if "-O" not in os.environ.get("CFLAGS", ""):
            module.extra_compile_args.append("-O3")


def _add_mpi(modules: list[Extension], mpi: Mpi) -> None:
    import mpi4py

    for module in modules:
        module.include_dirs += [mpi4py.get_include(), *mpi.include_dirs]
        module.library_dirs += mpi.library_dirs
        module.libraries += mpi.libraries
        module.extra_compile_args += mpi.compile_args


def _translate(modules: list[Extension], force: bool) -> None:
    """Run Cython. The objects stay the ones that setuptools has prepared; only their sources become C."""
    from Cython.Build import cythonize

    translated = cythonize(modules, nthreads=CORES if CORES > 1 else 0, compiler_directives=DIRECTIVES, force=force)
    for module, made in zip(modules, translated, strict=True):
        module.sources = made.sources


def _recorded(place: Path) -> str | None:
    record = place / RECORD
    return record.read_text(encoding="utf-8") if record.exists() else None


SOURCES = sorted((ROOT / NATIVE).glob("*.pyx"))
setup(
    ext_modules=[Extension(f"taskgraph._native.{path.stem}", [str(NATIVE / path.name)]) for path in SOURCES],
    cmdclass={"build_ext": BuildNative},
)
