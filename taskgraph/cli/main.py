"""The command ``taskgraph``."""

from __future__ import annotations

import click

from taskgraph.cli.chaos import chaos
from taskgraph.cli.checkpoint import checkpoint
from taskgraph.cli.run import run
from taskgraph.cli.slurm import slurm


@click.group()
def main() -> None:
    """Run, try and inspect jobs of taskgraph."""


main.add_command(chaos)
main.add_command(run)
main.add_command(slurm)
main.add_command(checkpoint)
