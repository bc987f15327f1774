"""Processes that write snapshots are killed, stopped and fenced at any instruction, and nobody reads anything wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "programs" / "slot_writers.py"
SECONDS = 2.5


@pytest.fixture
def shared() -> Iterator[Path]:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="taskgraph-test-", dir=base))
    yield path
    shutil.rmtree(path)


def run(scenario: str, path: Path, *how: str) -> dict[str, int]:
    """Run a scenario. Its seed goes into the command line, so a failure shows it."""
    command = [sys.executable, str(PROGRAM), scenario, str(path), str(SECONDS), str(random.randrange(10**6)), *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("how", [[], ["repeat"]], ids=["written", "repeated"])
def test_a_writer_killed_anywhere_leaves_only_whole_snapshots_and_its_memory(shared, how):
    counts = run("killed", shared / "slots", *how)
    assert counts["kills"] >= 10
    assert counts["newest"] >= 10
    assert counts["seen"] >= 10


@pytest.mark.parametrize("how", [[], ["repeat"]], ids=["written", "repeated"])
def test_a_writer_stopped_anywhere_changes_nothing_below_the_floor_when_it_goes_on(shared, how):
    counts = run("stopped", shared / "slots", *how)
    assert counts["stops"] >= 10
    assert counts["seen"] >= 10


def test_what_is_listed_after_the_floor_was_raised_is_final_while_others_write(shared):
    counts = run("fenced", shared / "slots")
    assert counts["raises"] >= 100
    assert counts["seen"] >= 100
    assert counts["written"] >= 100
