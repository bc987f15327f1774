"""Compare the hand-written ``.pyi`` of the compiled modules with what was compiled."""

from __future__ import annotations

import sys
from pathlib import Path

import mpi4py

# The library of MPI has to be there before a module that needs it is imported, but nothing has to be started.
mpi4py.rc.initialize = False

from mpi4py import MPI  # noqa: E402, F401
from mypy.stubtest import main  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "pyproject.toml"
MODULES = [f"taskgraph._native.{stub.stem}" for stub in sorted((ROOT / "taskgraph/_native").glob("*.pyi"))]
sys.argv[1:] = [*MODULES, "--mypy-config-file", str(CONFIG), *sys.argv[1:]]
sys.exit(main())
