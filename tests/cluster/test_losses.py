"""A job on three hosts under Slurm, and what dies of it: ranks, daemons, the launcher, hosts.

Each test ends with the result of a run to which nothing happens, bit for bit, and with nothing left on any host.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from batch import EPOCHS, PAST_LEASE_S, TASKS, Batch, assert_nothing_left, kill, pids, ranks, ring, undisturbed
from lab import Lab

THREE_HOSTS = ("--nodes=3", "--ntasks-per-node=2", "--no-kill")
SHORT = 60
"""After this epoch the loss comes."""


@pytest.fixture
def job(submit: Callable[..., Batch]) -> Batch:
    """A job that has come to its middle."""
    started = submit(ring(), *THREE_HOSTS)
    started.wait_for_line(f"^epoch {SHORT}$")
    return started


def assert_right(job: Batch) -> None:
    assert job.finish() == "COMPLETED", job.text()
    assert job.results() == undisturbed(), job.text()
    assert f"epoch {EPOCHS - 1}\n" in job.text()


@pytest.mark.parametrize("host", ["n1", "n2", "n3"])
def test_a_rank_that_dies_on_any_host_is_survived_in_place(lab: Lab, job: Batch, host: str):
    kill(lab, host, ranks(lab, host)[-1])
    assert_right(job)
    assert "as generation 1" in job.text()
    assert "launching it again" not in job.text()
    assert_nothing_left(lab, lab.names)


def test_a_host_that_falls_silent_is_survived_in_place(lab: Lab, job: Batch):
    lab.power_off("n2")
    assert_right(job)
    assert "on host n2" in job.text()
    assert "launching it again" not in job.text()
    assert_nothing_left(lab, ["n1", "n3"])


def test_after_a_host_whose_connections_close_the_job_goes_on_on_the_others(lab: Lab, job: Batch):
    lab.power_off("n2", silently=False)
    assert_right(job)
    assert "2 of 3 hosts answer: n1, n3" in job.text()
    assert job.resumed()[0] >= SHORT - 1
    assert_nothing_left(lab, ["n1", "n3"])


def test_a_daemon_of_the_launcher_that_dies_takes_nothing_with_it(lab: Lab, job: Batch):
    for pid in pids(lab, "n3", r"^/\S*prted "):  # where it is started by a script, that too
        kill(lab, "n3", pid)
    assert_right(job)
    assert job.resumed()[0] >= SHORT - 1
    assert_nothing_left(lab, lab.names)


def test_the_launcher_that_dies_is_started_again(lab: Lab, job: Batch):
    kill(lab, "n1", pids(lab, "n1", r"^/\S*(prterun|mpirun) ")[0])
    assert_right(job)
    assert job.resumed()[0] >= SHORT - 1
    assert_nothing_left(lab, lab.names)


@pytest.mark.parametrize("host", ["n1", "n3"])
def test_a_host_that_is_cut_off_for_longer_than_its_lease_and_comes_back_does_no_harm(lab: Lab, job: Batch, host: str):
    lab.cut(host)
    time.sleep(PAST_LEASE_S)
    lab.heal(host)
    assert_right(job)
    assert len(job.results()) == TASKS  # one result of each task, and no other
    assert_nothing_left(lab, lab.names)
