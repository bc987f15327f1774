"""Jobs of `programs/fates.py`, and what can be read off their output."""

from __future__ import annotations

import re
from pathlib import Path

PROGRAM = Path(__file__).with_name("programs") / "fates.py"
TASKS = 4
LIMIT_S = 90.0


def result_after(epochs: int) -> list[float]:
    """Return the state of task 0 that so many epochs lead to: the program's formula, in one process."""
    states = [[0.0] * TASKS for _ in range(TASKS)]
    for epoch in range(epochs):
        states = [[states[task - 1][place - 1] * 0.5 + epoch + task for place in range(TASKS)] for task in range(TASKS)]
    return states[0]


def assert_right(done, epochs: int) -> None:
    """The job ended well, with the result of a run without failures."""
    found = re.findall(r"rank \d+ result \[(.*)\]", done.stdout)
    assert found, done
    assert [float(number) for number in found[-1].split(",")] == result_after(epochs), done


def failure_line(done) -> str:
    """Return the one line that a person sees of one failure."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("taskgraph: rank")]
    assert len(lines) == 1, done
    return lines[0]


def met_at(done) -> float:
    """Return when the rank met its fate, in seconds since 1970."""
    found = re.search(r"^([\d.]+) rank \d+ meets", done.stdout, re.MULTILINE)
    assert found, done
    return float(found[1])


def known_at(done) -> list[float]:
    """Return when each rank knew of the death."""
    return [float(at) for at in re.findall(r"^([\d.]+) rank=\d+ phase=known", done.stderr, re.MULTILINE)]
