"""The ring of `fates.py` with a store that has no byte left for files of tasks once FILES were written by a rank."""

from __future__ import annotations

import errno
import os
import runpy
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

FILES = int(os.environ.pop("FILES"))


class FullFileSystem(LocalFileSystem):
    protocol = "full"
    written = 0

    def _open(self, path, mode="rb", **kwargs):
        if mode == "wb" and "/task-" in path:
            FullFileSystem.written += 1
            if FullFileSystem.written > FILES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return super()._open(path, mode, **kwargs)


fsspec.register_implementation("full", FullFileSystem)
runpy.run_path(str(Path(__file__).with_name("fates.py")), run_name="__main__")
