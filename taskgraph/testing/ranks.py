"""Run a job with several ranks inside one process: for tests, and for a debugger."""

from __future__ import annotations

import operator
import threading
from typing import TYPE_CHECKING

from taskgraph.errors import EpochAborted, UsageError
from taskgraph.ids import Rank
from taskgraph.plan.decision import start
from taskgraph.plan.layout import assign
from taskgraph.program.graph import check
from taskgraph.run.probes.injection import refuse_in_one_process
from taskgraph.run.start.site import HERE
from taskgraph.run.state.snapshots import NoSnapshots
from taskgraph.run.worker.control import NoControl
from taskgraph.run.worker.worker import Worker
from taskgraph.testing.loopback import Loopback, LoopbackTransport

if TYPE_CHECKING:
    from taskgraph.job import Job


def run(job: Job, ranks: int = 1) -> int:
    """Run a job, each rank a thread of this process, without MPI and without etcd.

    Parameters
    ----------
    job
        Configured as for `Job.start`. Its tasks run at the same time in several threads, so what they share in the
        program must bear that.
    ranks
        Number of ranks, at least 1.

    Returns
    -------
    int
        The status of the job.

    Raises
    ------
    UsageError
        `ranks` is no number of ranks.
    Exception
        The first that user code raised on any rank, as it is.
    """
    ranks = _count(ranks)
    program = job.program()
    refuse_in_one_process(program.config.faults)
    layout = assign(program.config.num_tasks, [HERE] * ranks, program.config.backups, program.config.placement)
    decision = start(dict.fromkeys(range(ranks), HERE), layout)
    network = Loopback(ranks)
    results: dict[Rank, int] = {}
    errors: list[BaseException] = []

    def run_rank(rank: Rank) -> None:
        worker = Worker(
            program,
            rank,
            HERE,
            decision,
            lambda epoch, codec, handlers: LoopbackTransport(network, rank, epoch, codec, handlers),
            check,
            NoSnapshots(),
            NoControl(),
        )
        try:
            results[rank] = worker.run()
        except EpochAborted:
            pass
        except BaseException as error:
            errors.append(error)
            network.abort()
        finally:
            worker.close()

    threads = [threading.Thread(target=run_rank, args=(rank,), name=f"rank-{rank}") for rank in range(1, ranks)]
    for thread in threads:
        thread.start()
    run_rank(0)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _count(ranks: object) -> int:
    try:
        number = operator.index(ranks)  # type: ignore[arg-type]  # what has no index is what this finds
    except TypeError:
        raise UsageError(f"ranks={ranks!r} is not an integer: use 1 or more") from None
    if isinstance(ranks, bool) or number < 1:
        raise UsageError(f"ranks={ranks!r} is out of bounds: use 1 or more")
    return number
