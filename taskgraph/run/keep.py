"""Start a keeper: ``python -P .../taskgraph/run/keep.py DIRECTORY``.

It does what ``python -m taskgraph.run.keeper`` does, without the package's ``__init__``: that brings what users write
against, NumPy included, which is two thirds of what a keeper takes to start, on a core that ranks wait for. A bare
package in its place finds the same modules and brings nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType


def main() -> int:
    """Be a keeper."""
    package = ModuleType("taskgraph")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["taskgraph"] = package
    from taskgraph.run import keeper

    return keeper.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
