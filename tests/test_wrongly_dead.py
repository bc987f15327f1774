"""A rank that was declared dead and is not does no harm, and leaves."""

from __future__ import annotations

import os
import signal

from fates import LIMIT_S, PROGRAM, assert_right


def test_a_rank_that_was_stopped_and_replaced_leaves_when_it_goes_on(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=[25, 0.1, f"1:5:signal={signal.SIGSTOP}"], ulfm=True)
    job.wait_for_line("phase=restored", LIMIT_S)
    os.kill(job.ranks()[1], signal.SIGCONT)
    job.wait_for_line("this rank leaves: it was declared dead", LIMIT_S)
    done = job.finish(LIMIT_S)
    assert_right(done, 25)
    assert "rank 1 status" not in done.stdout


def test_a_rank_that_is_cut_off_from_etcd_hears_over_mpi_that_it_is_dead(mpirun):
    env = {"TASKGRAPH_RANKS_PER_HOST": "1", "TASKGRAPH_LEASE_S": "2"}
    job = mpirun.start(PROGRAM, ranks=3, args=[50, 0.1, "1:5:cut"], env=env, ulfm=True)
    keeper = int(job.wait_for_line(r"keeper (\d+)", LIMIT_S)[1])
    try:
        job.wait_for_line("its host fell silent", LIMIT_S)
        job.wait_for_line("this rank leaves: its generation is over, says rank 0", LIMIT_S)
    finally:
        os.kill(keeper, signal.SIGCONT)
    done = job.finish(LIMIT_S)
    assert_right(done, 50)
    assert "rank 1 status" not in done.stdout


def test_a_rank_that_is_cut_off_from_etcd_hears_over_mpi_that_the_job_has_failed(mpirun):
    env = {"TASKGRAPH_RANKS_PER_HOST": "1", "TASKGRAPH_LEASE_S": "60"}
    job = mpirun.start(PROGRAM, ranks=3, args=[90, 0.1, "1:5:cut", "0:9:raise"], env=env, ulfm=True)
    keeper = int(job.wait_for_line(r"keeper (\d+)", LIMIT_S)[1])
    try:
        job.wait_for_line("rank 1 status 1", LIMIT_S)
    finally:
        os.kill(keeper, signal.SIGCONT)
    done = job.finish(LIMIT_S)
    assert "an error of the user" in done.stderr
    assert sorted(line.split(" ", 1)[1] for line in done.stdout.splitlines() if "status" in line) == [
        f"rank {rank} status 1" for rank in range(3)
    ]
