"""``python -m taskgraph``: the command ``taskgraph``."""

from taskgraph.cli.main import main

main(prog_name="taskgraph")
