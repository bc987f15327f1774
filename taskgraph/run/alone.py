"""A job of one rank, in one process: no MPI, no etcd, no thread. The way to debug."""

from __future__ import annotations

from taskgraph.plan.layout import assign
from taskgraph.program.graph import check
from taskgraph.run.observer import Observer
from taskgraph.run.replicas import Program
from taskgraph.run.startup import warn_of_few_copies
from taskgraph.run.worker import Worker


def run_alone(program: Program, observer: Observer) -> int:
    """Run every task here, and return the status of the job. What user code raises is raised as it is."""
    config = program.config
    layout = assign(config.num_tasks, ["localhost"], config.backups, config.placement)
    warn_of_few_copies(config, layout)
    worker = Worker(program, 0, [0], layout, None, check, observer.progress)
    try:
        return worker.run()
    finally:
        worker.close()
        observer.close()
