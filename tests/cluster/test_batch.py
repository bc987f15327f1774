"""What a batch system does to a job: warnings before its end, requeues, suspension; and the loss of its first host."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from batch import EPOCHS, LIMIT_S, PAST_LEASE_S, Batch, assert_nothing_left, pids, ring, undisturbed
from lab import HEAD, Lab

TWO_HOSTS = ("--nodes=2", "--ntasks-per-node=2", "--no-kill", "--requeue")
SHORT = 60


@pytest.fixture
def checkpoint(lab: Lab) -> dict[str, str]:
    """Where a job writes its checkpoints: where all hosts see it."""
    place = lab.directory / f"checkpoints-{time.time_ns()}"
    place.mkdir()
    return {"TASKGRAPH_CHECKPOINT": place.as_uri(), "TASKGRAPH_CHECKPOINT_EVERY": "20"}


def assert_gone_on(job: Batch, epochs: int = EPOCHS) -> None:
    """The job was queued again, and has done no epoch twice but the one that was not finished."""
    assert job.finish() == "COMPLETED", job.text()
    assert job.results() == undisturbed(epochs), job.text()
    done = job.epochs()
    again = [number for number in set(done) if done.count(number) > 1]
    assert len(again) <= 1, (again, job.text())


def test_a_warning_by_hand_leads_to_a_checkpoint_and_a_requeue_that_goes_on_from_it(
    lab: Lab, submit: Callable[..., Batch], checkpoint: dict[str, str]
):
    job = submit(ring("--requeue"), *TWO_HOSTS, env=checkpoint)
    job.wait_for_line(f"^epoch {SHORT}$")
    lab.run(HEAD, "scancel", "--signal=USR1", "--batch", job.number)
    assert_gone_on(job)
    assert "Slurm queues job" in job.text()
    assert_nothing_left(lab, lab.names)


def test_the_warning_before_the_time_limit_does_the_same(
    lab: Lab, submit: Callable[..., Batch], checkpoint: dict[str, str]
):
    job = submit(ring("--requeue", epochs=60, ms=1000), *TWO_HOSTS, "--time=1", "--signal=B:USR1@15", env=checkpoint)
    job.wait_for_line("Slurm queues job")
    job.wait_for_line(r"^epoch \d+$")
    lab.run(HEAD, "scontrol", "update", f"jobid={job.number}", "timelimit=10")
    assert_gone_on(job, epochs=60)
    assert_nothing_left(lab, lab.names)


def test_a_job_that_is_preempted_goes_on_when_it_is_its_turn_again(
    lab: Lab, submit: Callable[..., Batch], checkpoint: dict[str, str], tmp_path: Path
):
    job = submit(ring("--requeue"), *TWO_HOSTS, "--signal=B:USR1@20", env=checkpoint)
    job.wait_for_line(f"^epoch {SHORT}$")
    urgent = submit(["sleep", "5"], "--partition=urgent", "--nodes=3", "--exclusive")
    assert urgent.finish() == "COMPLETED"
    assert_gone_on(job)
    assert_nothing_left(lab, lab.names)


def test_a_job_whose_first_host_is_lost_is_queued_again_and_goes_on_from_its_checkpoint(
    lab: Lab, submit: Callable[..., Batch], checkpoint: dict[str, str]
):
    """Slurm itself would not: a job that is not to be killed with a host counts as running on the others."""
    brief = {**checkpoint, "TASKGRAPH_ETCD_LOST_AFTER_S": "5"}
    job = submit(ring("--requeue"), *TWO_HOSTS, "--nodelist=n1,n2", env=brief)
    job.wait_for_line(f"^epoch {SHORT}$")
    lab.power_off("n1")
    lab.wait_for(lambda: lab.state(job.number) != "RUNNING", "the other host has it queued again", LIMIT_S)
    lab.boot("n1")
    assert job.finish() == "COMPLETED", job.text()
    assert job.results() == undisturbed(), job.text()
    done = job.epochs()
    began_again = next(number for before, number in itertools.pairwise(done) if number <= before)
    assert began_again >= SHORT - 40
    assert_nothing_left(lab, lab.names)


def test_a_whole_job_that_is_suspended_and_resumed_accuses_nobody(lab: Lab, submit: Callable[..., Batch]):
    job = submit(ring(), *TWO_HOSTS)
    job.wait_for_line(f"^epoch {SHORT}$")
    lab.run(HEAD, "scontrol", "suspend", job.number)
    before = len(job.epochs())
    time.sleep(PAST_LEASE_S)
    assert len(job.epochs()) <= before + 1
    lab.run(HEAD, "scontrol", "resume", job.number)
    assert job.finish() == "COMPLETED", job.text()
    assert job.results() == undisturbed()
    assert "lost" not in job.text()
    assert "launching it again" not in job.text()
    assert_nothing_left(lab, lab.names)


def test_after_a_job_is_cancelled_nothing_is_left(lab: Lab, submit: Callable[..., Batch]):
    job = submit(ring(), *TWO_HOSTS)
    job.wait_for_line("^epoch 20$")
    lab.run(HEAD, "scancel", job.number)
    assert job.finish() == "CANCELLED"
    assert_nothing_left(lab, lab.names)
    assert not pids(lab, "n1", "ring.py")
