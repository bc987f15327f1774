"""Who waits for what a keeper holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from taskgraph.backends.processes import Process
from taskgraph.backends.slurm import BatchState
from taskgraph.errors import UsageError
from taskgraph.run.keeper.holding import Holding


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_as_long_as_the_supervisor_lives_a_launch_may_come():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    supervisor = Process.of(child.pid)
    holding = Holding(supervisor, batch_state=lambda environ: BatchState.OVER)
    assert holding.is_expected()
    child.communicate(b"\n")
    assert not holding.is_expected()


def test_on_another_machine_the_batch_system_is_asked_now_and_then():
    clock, asked, said = Clock(), [], [BatchState.RUNS]

    def batch_state(environ):
        asked.append(clock.now)
        return said[0]

    holding = Holding(None, batch_state=batch_state, clock=clock)
    for clock.now in (0.0, 1.0, 4.9, 5.0):
        assert holding.is_expected()
    assert asked == [0.0, 5.0]
    said[0] = BatchState.OVER
    clock.now = 10.0
    assert not holding.is_expected()
    clock.now = 20.0
    assert not holding.is_expected()
    assert asked == [0.0, 5.0, 10.0]


@pytest.mark.parametrize("said", [BatchState.RUNS, BatchState.DESERTED, BatchState.OVER])
def test_a_job_whose_first_host_is_lost_is_handed_back_to_the_batch_system_and_no_other(said):
    queued = []
    holding = Holding(
        None, batch_state=lambda environ: said, requeue=lambda environ: bool(queued.append(environ)) or True
    )
    assert holding.is_expected() == (said is BatchState.RUNS)
    holding.hand_back()
    assert len(queued) == (said is BatchState.DESERTED)


def test_a_batch_system_that_refuses_keeps_nobody_from_leaving():
    def refuse(environ):
        raise UsageError("no")

    holding = Holding(None, batch_state=lambda environ: BatchState.DESERTED, requeue=refuse)
    assert not holding.is_expected()
    holding.hand_back()


def test_without_a_batch_system_nobody_can_tell(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert Holding(None).is_expected()
