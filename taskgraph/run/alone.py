"""A job of one rank, in one process: no MPI, no etcd, no thread. The way to debug."""

from __future__ import annotations

from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.config import Config
from taskgraph.errors import TaskgraphError
from taskgraph.ids import Epoch
from taskgraph.plan.layout import assign
from taskgraph.program.graph import check
from taskgraph.run.alone_checkpoints import AloneCheckpoints
from taskgraph.run.checkpoints.shelf import Beginning, Shelf
from taskgraph.run.probes.injection import refuse_in_one_process
from taskgraph.run.rank.error_ending import ending_of
from taskgraph.run.rank.observer import Observer
from taskgraph.run.start.beginning import look_alone
from taskgraph.run.start.site import HERE
from taskgraph.run.state.replicas import Program
from taskgraph.run.state.snapshots import NoSnapshots
from taskgraph.run.worker.control import NoControl
from taskgraph.run.worker.worker import Worker


class Alone(NoControl):
    """Tells the observer how the only rank gets on."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._begun: Epoch = -1

    def begins(self, epoch: Epoch) -> bool:
        """Tell how far the job is."""
        self._begun = epoch
        self._observer.progress(epoch)
        return True

    def finishing(self) -> None:
        """Let the tasks have the terminal."""
        self._observer.progress(self._begun + 1)
        self._observer.close()


def run_alone(program: Program, observer: Observer) -> int:
    """Run every task here, and return the status of the job. What user code raises is raised as it is.

    Raises
    ------
    TaskgraphError
        User code called ``sys.exit()`` or ``sys.exit(0)`` in the middle of the job, which would look like success.
    """
    config = program.config
    refuse_in_one_process(config.faults)
    layout = assign(config.num_tasks, [HERE], config.backups, config.placement)
    beginning = look_alone(config, layout)
    if beginning.decision.checkpoint is not None:
        observer.resumes(beginning.decision.checkpoint, str(config.checkpoint))
    snapshots = _snapshots(config, beginning)
    worker = Worker(program, 0, HERE, beginning.decision, None, check, snapshots, Alone(observer))
    finished = False
    try:
        status = worker.run()
        finished = True
        return status
    except SystemExit as error:
        if error.code:
            raise
        task, epoch = worker.where()
        raise TaskgraphError(ending_of(error, 0, task, epoch).describe()) from error
    finally:
        worker.close()
        if isinstance(snapshots, AloneCheckpoints):
            snapshots.close(finished=finished)
        observer.close()


def _snapshots(config: Config, beginning: Beginning) -> NoSnapshots:
    if config.checkpoint is None:
        return NoSnapshots()
    run = beginning.run
    shelf = Shelf(CheckpointStore(config.checkpoint, config.name), config.num_tasks, run, beginning)
    return AloneCheckpoints(config, run, shelf, beginning.decision.boundary)
