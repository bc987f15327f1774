"""The guide names every option with its default, every topology with its linkages, and its program runs."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import taskgraph as tg
from taskgraph.config import Config

GUIDE = (Path(__file__).resolve().parent.parent / "docs" / "guide.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in GUIDE.splitlines() if line.startswith("|")]
PROGRAM = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL).group(1)


def test_it_names_every_option_with_its_default():
    options = {name: row[1].strip("`") for row in ROWS if len(row) == 3 for name in re.findall(r"`(\w+)`", row[0])}
    defaults = {field.name: "" if field.default is MISSING else repr(field.default) for field in fields(Config)}
    assert {name: options.get(name) for name in defaults} == defaults


@pytest.mark.parametrize(
    ("topology", "tasks"),
    [
        (tg.topology.Tree(2), 4),
        (tg.topology.Star(0), 4),
        (tg.topology.Ring(), 4),
        (tg.topology.Full(), 4),
        (tg.topology.Grid((2, 2)), 4),
        (tg.topology.Hypercube(), 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_it_names_the_linkages_of_a_topology(topology, tasks):
    (row,) = [row for row in ROWS if row[0].startswith(f"`{type(topology).__name__}(")]
    assert set(topology.linkages(tasks)) >= set(re.findall(r"`([-+\w]+)`", row[1]))
    assert len(re.findall(r"`([-+\w]+)`", row[1])) >= min(len(topology.linkages(tasks)), 5)


def test_its_program_gives_the_same_result_with_ranks_and_without(mpirun, tmp_path):
    (tmp_path / "logreg.py").write_text(PROGRAM)
    alone = mpirun.run(tmp_path / "logreg.py", ranks=1)
    together = mpirun.run(tmp_path / "logreg.py", ranks=4)
    assert alone.stdout == together.stdout
    assert re.fullmatch(r"\[[-\d. ]+\]\n", alone.stdout), alone
