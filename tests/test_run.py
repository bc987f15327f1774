"""``taskgraph run``: a job survives the end of its launcher, with real MPI, etcd and kills."""

from __future__ import annotations

import os
import re
import signal
from functools import lru_cache

import pytest
from supervised import LIMIT_S, RING, kill_launcher, launcher, results, supervised

from taskgraph.plan.ending import PAUSED
from taskgraph.testing import spmd

TASKS, EPOCHS = 5, 60


@lru_cache
def undisturbed() -> frozenset[str]:
    """Return the results of a run to which nothing happens."""
    done = spmd.run(RING, ranks=3, args=[TASKS, EPOCHS, 0])
    assert len(results(done.stdout)) == TASKS
    return frozenset(results(done.stdout))


def resumed(stderr: str) -> list[int]:
    """Return the epochs at which relaunches went on."""
    return [int(epoch) for epoch in re.findall(r"relaunch \d+ goes on at epoch (\d+)", stderr)]


def test_a_job_whose_launcher_is_killed_goes_on_from_shared_memory_to_the_same_result():
    with supervised([TASKS, EPOCHS, 20]) as job:
        job.wait_for_line("epoch 20$")
        first = kill_launcher(job)
        job.wait_for_line("epoch 40$")
        kill_launcher(job, first)
        done = job.finish(LIMIT_S)
    assert done.status == 0, done
    assert results(done.stdout) == undisturbed()
    first_resumed, second_resumed = resumed(done.stderr)
    assert 18 <= first_resumed < second_resumed
    assert second_resumed >= 38


def test_where_any_death_ends_the_job_it_is_launched_again():
    with supervised([TASKS, EPOCHS, 20], options=["--with-ft", "no"]) as job:
        job.wait_for_line("epoch 20$")
        os.kill(job.ranks()[1], signal.SIGKILL)
        done = job.finish(LIMIT_S)
    assert done.status == 0, done
    assert results(done.stdout) == undisturbed()
    assert resumed(done.stderr)[0] >= 18


def test_a_job_to_which_nothing_happens_is_launched_once_and_its_status_is_the_jobs():
    with supervised([2, 10, 0, "stops"], ranks=2) as job:
        done = job.finish(LIMIT_S)
    assert done.status == 3
    assert "relaunch" not in done.stderr


def test_an_error_of_the_program_ends_the_job_and_is_told_once():
    with supervised([2, 10, 0, "raises"], ranks=2) as job:
        done = job.finish(LIMIT_S)
    assert done.status == 1
    assert done.stderr.count("epoch 2: RuntimeError: it broke") == 1
    assert "relaunch" not in done.stderr


def test_three_relaunches_without_progress_end_the_job_with_the_reason():
    with supervised([2, 10, 0, "dies"], ranks=2, options=["--with-ft", "no"]) as job:
        done = job.finish(LIMIT_S)
    assert done.status not in (0, None)
    assert done.stderr.count("launching it again") == 4, done  # the first finds boundary 1, which is progress
    assert "3 relaunches in a row have come no further" in done.stderr


def test_a_driver_that_fails_before_its_job_starts_is_not_launched_again(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text("raise SystemExit(7)")
    with supervised([], ranks=2, program=script) as job:
        done = job.finish(LIMIT_S)
    assert done.status == 7
    assert "before it started a job" in done.stderr
    assert "launching it again" not in done.stderr


STARTS = """
import os, sys, time
import taskgraph as tg

class Node(tg.Task):
    def set_epoch(self, ctx, epoch):
        ctx.compose(lambda ins, outs: None)

if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    while not os.path.exists(os.environ["TASKGRAPH_SUPERVISED"].split(":", 2)[2] + "/0.reached"):
        time.sleep(0.01)  # until another rank has called start()
    print("rank 1 is alone", flush=True)
    {fate}
job = tg.Job("starts", num_tasks=2, epochs=3)
job.set_task_builder(lambda task_id: Node())
sys.exit(job.start())
"""


@pytest.fixture
def starts(tmp_path):
    """Write drivers whose rank 1 does something else than to start while the others do."""

    def write(fate: str):
        path = tmp_path / "driver.py"
        path.write_text(STARTS.format(fate=fate))
        return path

    return write


def test_a_driver_of_which_one_rank_fails_while_the_others_start_is_not_launched_again(starts):
    with supervised([], ranks=2, program=starts('sys.exit("no input")'), options=["--with-ft", "no"]) as job:
        done = job.finish(LIMIT_S)
    assert done.status == 1, done
    assert done.stderr.count("no input") == 1, done
    assert "a rank ended before it came to the start of the job" in done.stderr
    assert "launching it again" not in done.stderr


def to_supervisor(job, number):
    job.kill(number)


def to_group(job, number):
    """Send it to the launcher too, as a terminal and timeout(1) do."""
    os.killpg(job.pid, number)


@pytest.mark.parametrize("send", [to_supervisor, to_group])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_job_and_leaves_nothing(number, send):
    with supervised([2, 10_000, 10], ranks=2) as job:
        job.wait_for_line("epoch 5$")
        send(job, number)
        done = job.finish(LIMIT_S)
    assert done.status == 128 + number, done
    assert "launching it again" not in done.stderr


@pytest.mark.parametrize("send", [to_supervisor, to_group])
@pytest.mark.parametrize("fate", ["time.sleep(600)", "raise RuntimeError('no input')"])
def test_a_signal_ends_a_job_whose_ranks_wait_for_one_that_does_not_start(starts, fate, send):
    with supervised([], ranks=3, program=starts(fate)) as job:
        job.wait_for_line("RuntimeError: no input" if "raise" in fate else "rank 1 is alone")
        send(job, signal.SIGTERM)
        done = job.finish(LIMIT_S)
    assert "launching it again" not in done.stderr
    assert done.status in ([143] if "sleep" in fate else [143, 1]), done  # the launcher may have seen to it before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_with_checkpoints_gets_the_chance_to_write_one(tmp_path, number):
    with supervised([2, 10_000, 10], ranks=2, env={"TASKGRAPH_CHECKPOINT": str(tmp_path / "kept")}) as job:
        job.wait_for_line("epoch 5$")
        job.kill(number)
        done = job.finish(LIMIT_S)
    assert done.status == PAUSED, done
    assert f"'taskgraph run' got {number.name}" in done.stderr, done
    assert "launching it again" not in done.stderr


def test_when_the_supervisor_is_killed_nothing_is_left():
    with supervised([2, 10_000, 10], ranks=2) as job:
        job.wait_for_line("epoch 5$")
        launcher(job)
        job.kill(signal.SIGKILL)
        done = job.finish(LIMIT_S)
    assert done.status == -signal.SIGKILL
