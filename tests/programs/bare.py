"""Run a job over real MPI without etcd: the worker, the wire and nothing else."""

from __future__ import annotations

import sys
import traceback
from functools import partial

from taskgraph.backends.mpi import open_communicator, open_wire
from taskgraph.job import Job
from taskgraph.plan import decision
from taskgraph.plan.layout import assign
from taskgraph.program.graph import check
from taskgraph.run.state.snapshots import NoSnapshots
from taskgraph.run.worker.control import NoControl
from taskgraph.run.worker.worker import Worker


def start(job: Job) -> int:
    """Run a job on the ranks that there are; an exception on one of them ends them all."""
    communicator = open_communicator()
    try:
        return _run(job, communicator)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        communicator.Abort(1)
        raise


def _run(job: Job, communicator) -> int:
    program = job.program()
    config = program.config
    size, rank = communicator.size, communicator.rank
    word = memoryview(bytearray(8)).cast("q")
    layout = assign(config.num_tasks, ["here"] * size, config.backups, config.placement)
    connect = partial(open_wire, communicator, word, config.waiting, size)
    first = decision.start(dict.fromkeys(range(size), "here"), layout)
    worker = Worker(program, rank, "here", first, connect, check, NoSnapshots(), NoControl())
    status = worker.run()
    under_way = worker.close()
    assert under_way == 0, f"{under_way} sends were never completed"
    return status
