"""A job of one rank, in one process: no MPI, no etcd, no thread. The way to debug."""

from __future__ import annotations

from taskgraph.ids import Epoch
from taskgraph.plan.decision import start
from taskgraph.plan.layout import assign
from taskgraph.program.graph import check
from taskgraph.run.control import NoControl
from taskgraph.run.injection import refuse_in_one_process
from taskgraph.run.observer import Observer
from taskgraph.run.replicas import Program
from taskgraph.run.snapshots import NoSnapshots
from taskgraph.run.startup import warn_of_few_copies
from taskgraph.run.worker import Worker

HERE = "localhost"


class Alone(NoControl):
    """Tells the observer how the only rank gets on."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def progress(self, epochs: Epoch) -> None:
        """Pass it on."""
        self._observer.progress(epochs)

    def finishing(self) -> None:
        """Let the tasks have the terminal."""
        self._observer.close()


def run_alone(program: Program, observer: Observer) -> int:
    """Run every task here, and return the status of the job. What user code raises is raised as it is."""
    config = program.config
    refuse_in_one_process(config.faults)
    layout = assign(config.num_tasks, [HERE], config.backups, config.placement)
    warn_of_few_copies(config, layout)
    decision = start({0: HERE}, layout)
    worker = Worker(program, 0, HERE, decision, None, check, NoSnapshots(), Alone(observer))
    try:
        return worker.run()
    finally:
        worker.close()
        observer.close()
