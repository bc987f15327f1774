"""A mistake of the user's ends the job on every rank, soon, and is named once: rank, task, epoch, channel."""

from __future__ import annotations

import os
import re
import signal
import socket
from functools import cache
from pathlib import Path

import pytest

from taskgraph.testing import spmd

PROGRAM = Path(__file__).parent / "programs" / "mistakes.py"

# Rank 1 runs task 1. What a line of ours has to say, for each mistake.
NAMED = {
    "raises": r"rank 1, task 1, epoch 3: ValueError: a mistake of mine",
    "all raise": r"rank \d, task \d, epoch 3: ValueError: a mistake of all",
    "leaves": r"rank 1, task 1, epoch 3: the program called sys.exit\(7\)",
    "no put": r"rank 1, task 1, epoch 3, channel 1 -> 2 'x': .*returned without a value",
    "second put": r"rank 1, task 1, epoch 3, channel 1 -> 2 'x': .*second value",
    "second put, caught": r"rank 1, task 1, epoch 3, channel 1 -> 2 'x': .*second value",
    "late get": r"rank 1, task 1, epoch 3, channel 0 -> 1 'x': get on channel 0 -> 1 'x' outside compute",
    "memoryview": r"rank 1, task 1, epoch 3, channel 1 -> 2 'x': .*was put a memoryview",
    "no pickle": r"rank 1, task 1, epoch 3, channel 1 -> 2 'x': .*cannot be pickled: TypeError: .*generator",
    "no unpickling": r"rank 2, task 2, epoch 3, channel 1 -> 2 'x': .*cannot be unpickled: KeyError: 'no such thing'",
    "no words": r"rank 1, task 1, epoch 3: Wordless, and its message cannot be had: ZeroDivisionError in __str__",
    "no message": r"rank 1, task 1, epoch 3: ValueError",
    "save": r"rank 1, task 1, epoch 3: OSError: nothing can be saved",
    "save of text": r"rank 1, task 1, epoch 3: save of 'notes' in task 1 returned str, not bytes",
    "linkage": r"rank 1, task 1, epoch 3: linkage 'nobody' is unknown",
    "other tag": r"rank 1, task 1, epoch 3, channel 0 -> 1 'y': .*task 0 composed no out channel .* it has only 'x'",
    "no receiver": r"rank 0, task 0, epoch 3, channel 0 -> 1 'x': .*task 1 composed no in channel",
    "no task": r"rank \d, task \d: the task builder returned None for task \d",
}


@cache
def ended(mistake: str) -> spmd.Completed:
    """Return how a job with a mistake ends."""
    return spmd.run(PROGRAM, ranks=3, args=[mistake])


def lines_of_ours(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("taskgraph: ")]


@pytest.mark.parametrize("mistake", NAMED)
def test_a_mistake_is_named_once_and_ends_the_job(mistake):
    done = ended(mistake)
    assert done.status == (7 if mistake == "leaves" else 1)
    (line,) = lines_of_ours(done.stderr)
    assert re.fullmatch(f"taskgraph: {NAMED[mistake]}.*", line), line


def test_the_traceback_of_user_code_is_shown_once_and_without_frames_of_the_framework():
    done = ended("all raise")
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.count("ValueError: a mistake of all") == 2  # the traceback's last line, and ours
    assert "worker.py" not in done.stderr


def test_a_process_that_user_code_has_forked_is_no_rank(mpirun):
    done = mpirun.run(PROGRAM, ranks=3, args=["forks"], ulfm=True)
    assert done.stdout.count("the child is over: 7") == 1
    assert done.stdout.count("the child is over: 1") == 3
    assert "ValueError: of the child" in done.stderr
    assert done.stderr.count("a process that was forked in compute is no rank") == 2
    assert not lines_of_ours(done.stderr)
    assert "fork_posix" not in done.stderr


@pytest.mark.parametrize("ulfm", [False, True])
def test_an_interrupt_of_one_rank_while_the_job_starts_ends_it(mpirun, ulfm):
    program = """
        import os, signal, sys
        import taskgraph as tg
        from taskgraph.run.start import prepare
        if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
            prepare.HostDir.open = lambda path: os.kill(os.getpid(), signal.SIGINT)
        job = tg.Job("interrupted", 2, epochs=3)
        job.set_task_builder(lambda task_id: None)
        sys.exit(job.start())
    """
    done = mpirun.run(program, ranks=3, ulfm=ulfm, timeout_s=25)
    assert done.status != 0
    (line,) = lines_of_ours(done.stderr)
    assert "rank 1: KeyboardInterrupt" in line


def test_a_fault_of_ours_on_one_rank_while_the_job_starts_ends_it(mpirun):
    program = """
        import os, sys
        import taskgraph as tg
        from taskgraph.run.start import prepare
        if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
            def fails(path):
                raise OSError("no room for a fault")
            prepare.HostDir.open = fails
        job = tg.Job("faulty", 2, epochs=3)
        job.set_task_builder(lambda task_id: None)
        sys.exit(job.start())
    """
    done = mpirun.run(program, ranks=3, ulfm=True, timeout_s=25)
    (line,) = lines_of_ours(done.stderr)
    assert "rank 1: the job could not start: OSError: no room for a fault" in line


def test_a_cycle_over_ranks_is_found_and_named(mpirun):
    done = mpirun.run(PROGRAM, ranks=3, args=["cycle"])
    assert done.status == 1
    (line,) = lines_of_ours(done.stderr)
    assert "epoch 3" in line and ("cycle" in line or "composed no" in line)
    assert done.stderr.count("in a cycle") <= 1, done


def test_a_rank_deep_in_c_code_does_not_hold_up_the_end(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=["raises beside C code"], env={"TASKGRAPH_ABORT_GRACE_S": "1"})
    job.wait_for_line("in C")
    done = job.finish(timeout_s=20)  # the C code takes 30 s
    assert done.status != 0
    assert "a mistake of mine" in done.stderr


def test_a_rank_in_c_code_is_killed_by_its_keeper_where_the_launcher_does_not(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=["raises beside C code"], env={"TASKGRAPH_ABORT_GRACE_S": "1"}, ulfm=True)
    job.wait_for_line("in C")
    done = job.finish(timeout_s=20)
    assert "a mistake of mine" in done.stderr


def test_an_interrupt_ends_a_job_once(mpirun):
    done = mpirun.run(PROGRAM, ranks=3, args=["interrupted"], timeout_s=25)
    assert done.status != 0
    assert len(lines_of_ours(done.stderr)) == 1
    assert "KeyboardInterrupt" in done.stderr


def test_an_interrupt_from_the_terminal_ends_a_job_without_many_words(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=["raises beside C code"])
    job.wait_for_line("in C")
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does: to mpirun's group, which its ranks are not in
    done = job.finish(timeout_s=25)
    assert done.status != 0
    assert "Traceback" not in done.stderr
    assert len(lines_of_ours(done.stderr)) <= 1


def test_a_killed_mpirun_leaves_no_rank_no_etcd_and_no_file(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=["raises beside C code"])
    job.wait_for_line("in C")
    job.kill(signal.SIGKILL)
    job.finish(timeout_s=25)  # fails where anything is left ten seconds later


def test_options_that_differ_between_ranks_are_named(mpirun):
    program = """
        import os, sys
        import taskgraph as tg
        job = tg.Job("differs", 2, epochs=3 + int(os.environ["OMPI_COMM_WORLD_RANK"]))
        job.set_task_builder(lambda task_id: None)
        sys.exit(job.start())
    """
    done = mpirun.run(program, ranks=2)
    assert done.status == 1
    (line,) = lines_of_ours(done.stderr)
    assert "epochs=3 on rank 0, but epochs=4 on rank 1" in line


def test_an_etcd_that_cannot_be_reached_is_named_with_the_time_waited(mpirun):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        done = mpirun.run(
            PROGRAM, ranks=3, args=["none"], env={"TASKGRAPH_ETCD": endpoint, "TASKGRAPH_ETCD_TIMEOUT_S": "1"}
        )
    assert done.status == 1
    (line,) = lines_of_ours(done.stderr)
    assert endpoint in line and re.search(r"for [01]\.\d s", line)


def test_a_rank_that_does_not_find_the_others_does_not_run_the_job_by_itself(mpirun):
    program = """
        import os, sys
        os.environ["OMPI_COMM_WORLD_SIZE"] = "3"  # as under the launcher of an MPI that is not the one loaded
        import taskgraph as tg
        job = tg.Job("apart", 2, epochs=1)
        job.set_task_builder(lambda task_id: None)
        sys.exit(job.start())
    """
    done = mpirun.run(program, ranks=1)
    assert done.status == 1
    (line,) = lines_of_ours(done.stderr)
    assert "Open MPI started 3 ranks, but MPI knows of 1" in line


def test_an_mpi_that_nobody_has_started_is_named(mpirun):
    program = """
        import sys, mpi4py
        mpi4py.rc.initialize = False
        import taskgraph as tg
        job = tg.Job("unstarted", 2, epochs=1)
        job.set_task_builder(lambda task_id: None)
        try:
            job.start()
        except tg.UsageError as error:
            print(error, flush=True)
            sys.exit(1)
    """
    done = mpirun.run(program, ranks=2)
    assert done.status == 1
    assert "call MPI.Init_thread() before start()" in done.stdout


def test_every_rank_returns_the_status_of_the_job(mpirun):
    program = """
        import taskgraph as tg
        class Idle(tg.Task):
            def __init__(self, status):
                self.status = status
            def set_epoch(self, ctx, epoch):
                if ctx.epoch == 1:
                    ctx.shutdown(self.status)
                ctx.compose(lambda ins, outs: None)
        for status in (0, 3):
            job = tg.Job("status", 2)
            job.set_task_builder(lambda task_id: Idle(status))
            print("status", job.start())
    """
    done = mpirun.run(program, ranks=4)
    assert sorted(done.stdout.splitlines()) == ["status 0"] * 4 + ["status 3"] * 4
