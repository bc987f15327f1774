"""The end of a process: through MPI_Finalize, which waits for all ranks, but not for one that is gone."""

from __future__ import annotations

PROGRAM = """
    import os, sys, time
    from taskgraph.run.rank import leaving
    import taskgraph as tg

    leaving.FINALIZE_S = 0

    class Idle(tg.Task):
        def set_epoch(self, ctx, epoch):
            ctx.compose(lambda ins, outs: None)

    job = tg.Job("leaving", {tasks}, epochs=1)
    job.set_task_builder(lambda task_id: Idle())
    status = job.start()
    if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        {afterwards}
    sys.exit(status)
"""


def program(afterwards: str, tasks: int = 2) -> str:
    return PROGRAM.format(afterwards=afterwards, tasks=tasks)


def test_a_rank_that_is_gone_before_mpi_was_finalized_keeps_no_other_from_ending(mpirun):
    done = mpirun.run(program("os._exit(0)"), ranks=3, ulfm=True)
    said = [line for line in done.stderr.splitlines() if not line.startswith("[warn] Epoll")]  # libevent
    assert said == []


def test_a_rank_at_work_after_the_job_is_waited_for(mpirun):
    afterwards = "time.sleep(1); print('all done', flush=True)"  # the others are at their end meanwhile
    done = mpirun.run(program(afterwards), ranks=3, ulfm=True)
    assert (done.status, done.stdout, done.stderr) == (0, "all done\n", "")


def test_after_a_second_job_the_process_ends_as_after_one(mpirun):
    again = "pass\n    status += job.start()"
    done = mpirun.run(program(again), ranks=2, ulfm=True)
    assert (done.status, done.stderr) == (0, "")


def test_a_host_that_is_lost_once_all_know_that_the_job_is_over_keeps_no_other_from_ending(mpirun):
    """No rank of another host sees it go, and nobody asks etcd any more: it is MPI that tells."""
    env = {"TASKGRAPH_RANKS_PER_HOST": "2", "TASKGRAPH_FAULTS": "kill-host rank=3 epoch=0+ phase=commit.ending nth=2"}
    for _ in range(2):  # at times this hung
        done = mpirun.run(program("pass", tasks=6), ranks=6, ulfm=True, env=env, timeout_s=30)
        assert "fault injected: kill-host rank=3" in done.stderr, done


def test_mpi_is_started_for_one_thread_unless_the_program_has_started_it(mpirun):
    started = """
        from taskgraph.backends.mpi import open_communicator
        open_communicator()
        from mpi4py import MPI
        print(MPI.Query_thread() == MPI.THREAD_FUNNELED)
    """
    assert mpirun.run(started, ranks=1).stdout == "True\n"
