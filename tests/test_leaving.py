"""The end of a process: through MPI_Finalize, which waits for all ranks, but not for one that is gone."""

from __future__ import annotations

PROGRAM = """
    import os, sys, time
    from taskgraph.run import leaving
    import taskgraph as tg

    leaving.FINALIZE_S = 0

    class Idle(tg.Task):
        def set_epoch(self, ctx, epoch):
            ctx.compose(lambda ins, outs: None)

    job = tg.Job("leaving", 2, epochs=1)
    job.set_task_builder(lambda task_id: Idle())
    status = job.start()
    if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        {afterwards}
    sys.exit(status)
"""


def test_a_rank_that_is_gone_before_mpi_was_finalized_keeps_no_other_from_ending(mpirun):
    done = mpirun.run(PROGRAM.format(afterwards="os._exit(0)"), ranks=3, ulfm=True)
    said = [line for line in done.stderr.splitlines() if not line.startswith("[warn] Epoll")]  # libevent
    assert said == []


def test_a_rank_at_work_after_the_job_is_waited_for(mpirun):
    afterwards = "time.sleep(1); print('all done', flush=True)"  # the others are at their end meanwhile
    done = mpirun.run(PROGRAM.format(afterwards=afterwards), ranks=3, ulfm=True)
    assert (done.status, done.stdout, done.stderr) == (0, "all done\n", "")


def test_after_a_second_job_the_process_ends_as_after_one(mpirun):
    again = "pass\n    status += job.start()"
    done = mpirun.run(PROGRAM.format(afterwards=again), ranks=2, ulfm=True)
    assert (done.status, done.stderr) == (0, "")
