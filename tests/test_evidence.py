"""How a death becomes known: at once, with its cause, whoever else dies with it; and what is no death."""

from __future__ import annotations

import os
import re
import signal

import pytest
from fates import LIMIT_S, PROGRAM, assert_right, failure_line, known_at, met_at

from taskgraph.testing.leftovers import processes

LEASE_S = 2.0
SHORT_LEASE = {"TASKGRAPH_LEASE_S": str(LEASE_S)}


@pytest.mark.parametrize(
    ("fate", "words"),
    [("exit=3", "exited with code 3"), ("crash", "killed by SIGSEGV"), ("signal=9", "killed by SIGKILL")],
)
def test_a_rank_that_dies_is_known_to_all_at_once_with_the_cause(mpirun, fate, words):
    done = mpirun.run(PROGRAM, ranks=3, args=[12, 0.01, f"1:5:{fate}"], ulfm=True, timeout_s=LIMIT_S)
    assert_right(done, 12)
    line = failure_line(done)
    # Its launcher may have taken notice of the death before anybody here had looked, and then only newer kernels tell.
    assert words in line or re.search(r"its process ended: pid \d+ ended,", line), line
    assert "rank 1 on host" in line
    assert "epoch 5 is run again" in line or "epoch 4 is run again" in line
    known = known_at(done)
    assert len(known) == 2
    assert max(known) - met_at(done) < 1.0  # 50 ms on a machine that has cores for all


def test_a_death_is_known_at_once_though_the_keeper_dies_at_the_same_moment(mpirun):
    done = mpirun.run(PROGRAM, ranks=3, args=[30, 0.05, "1:5:with-keeper"], ulfm=True, timeout_s=LIMIT_S)
    assert_right(done, 30)
    assert "rank 1 on host" in failure_line(done)


def test_a_rank_that_holds_the_gil_for_long_is_not_called_dead(mpirun):
    args = [8, 0.01, f"1:3:hold={LEASE_S + 2}"]
    done = mpirun.run(PROGRAM, ranks=2, args=args, env=SHORT_LEASE, ulfm=True, timeout_s=LIMIT_S)
    assert_right(done, 8)
    assert "held" in done.stdout
    assert "lost" not in done.stderr


def test_a_stopped_rank_is_replaced_and_does_not_hold_up_the_end(mpirun):
    done = mpirun.run(PROGRAM, ranks=3, args=[12, 0.01, f"1:5:signal={signal.SIGSTOP}"], ulfm=True, timeout_s=LIMIT_S)
    assert_right(done, 12)
    assert "its process was stopped" in failure_line(done)
    assert max(known_at(done)) - met_at(done) < 2.5 + 2.0  # 2.5 s on a machine that has cores for all


def test_a_fault_in_a_thread_of_ours_costs_its_rank_and_not_the_job(mpirun):
    done = mpirun.run(PROGRAM, ranks=3, args=[20, 0.1, "1:5:sidecar"], ulfm=True, timeout_s=LIMIT_S)
    assert_right(done, 20)
    line = failure_line(done)
    assert "rank 1 on host" in line
    assert "reported itself: RuntimeError: a fault of ours" in line


def test_leaving_the_interpreter_while_the_job_runs_costs_the_rank_and_not_the_job(mpirun):
    done = mpirun.run(PROGRAM, ranks=3, args=[20, 0.1, "1:5:leave"], ulfm=True, timeout_s=LIMIT_S)
    assert_right(done, 20)
    assert "the interpreter was left" in failure_line(done)


def test_a_job_that_was_suspended_as_a_whole_accuses_nobody(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=[20, 0.1], env=SHORT_LEASE, ulfm=True)
    job.wait_for_line("rank 0 epoch 5")
    everyone = [process.pid for process in processes(job.marker, job.pid)]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    wait(LEASE_S + 2)
    for pid in sorted(everyone, key=lambda pid: pid in job.ranks().values()):  # the ranks go on last
        os.kill(pid, signal.SIGCONT)
    done = job.finish(LIMIT_S)
    assert_right(done, 20)
    assert "lost" not in done.stderr


def wait(seconds: float) -> None:
    """Let time pass for processes that are stopped: there is no event."""
    signal.sigtimedwait([], seconds)
