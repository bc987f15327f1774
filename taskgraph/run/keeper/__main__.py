"""Start a keeper: ``python -P .../taskgraph/run/keeper/__main__.py DIRECTORY``.

The package's own ``__init__`` is left out: it brings what users write against, NumPy included, which is two thirds of
what a keeper takes to start, on a core that ranks wait for. A bare package in its place finds the same modules and
brings nothing.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def main(arguments: Sequence[str]) -> int:
    """Be the keeper of the directory that is named, unless there is one."""
    # Batch systems send these to every process of a job that ends. The keeper ends with the job, and not before.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
        signal.signal(ignored, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    package = ModuleType("taskgraph")
    package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["taskgraph"] = package
    from taskgraph.run.keeper.keeper import keep

    keep(arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
