"""Who waits for what a keeper holds."""

from __future__ import annotations

import subprocess
import sys

from taskgraph.backends.processes import Process
from taskgraph.run.holding import Holding


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_as_long_as_the_supervisor_lives_a_launch_may_come():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    supervisor = Process.of(child.pid)
    holding = Holding(supervisor, is_over=lambda environ: True)
    assert holding.is_expected()
    child.communicate(b"\n")
    assert not holding.is_expected()


def test_on_another_machine_the_batch_system_is_asked_now_and_then():
    clock, asked, over = Clock(), [], [False]

    def is_over(environ):
        asked.append(clock.now)
        return over[0]

    holding = Holding(None, is_over=is_over, clock=clock)
    for clock.now in (0.0, 1.0, 4.9, 5.0):
        assert holding.is_expected()
    assert asked == [0.0, 5.0]
    over[0] = True
    clock.now = 10.0
    assert not holding.is_expected()
    clock.now = 20.0
    assert not holding.is_expected()
    assert asked == [0.0, 5.0, 10.0]


def test_without_a_batch_system_nobody_can_tell(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert Holding(None).is_expected()
