"""Run a benchmark under mpirun, whether or not it was started so, and report what it found."""

import json
import os
import subprocess
import sys

from taskgraph.testing import mpirun


def as_ranks(ranks):
    """Where this process is no rank yet, start the script again as so many, and end with their status."""
    if "OMPI_COMM_WORLD_RANK" in os.environ or "PMI_RANK" in os.environ:
        return
    command = mpirun.command(ranks, sys.argv)
    print("$", " ".join(command), flush=True)
    sys.exit(subprocess.run(command, timeout=1800).returncode)


def report(figures):
    """Print the figures as the one line of JSON that comes last."""
    print(json.dumps(figures), flush=True)
