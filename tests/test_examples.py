"""The examples, the program in the README and the first program of all: run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taskgraph.testing import spmd

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
LOGREG = ROOT / "tests" / "programs" / "logreg.py"

SAYS = {
    "regression": "regression: 0, 105, 210, 315, 420, 525, 630, 735, 840, 945, 1050 as expected",
    "digits": "digits: test accuracy 0.9",
    "heat": "heat: 500 steps, hottest point 36.064, off from SciPy by at most",
    "kmeans": "kmeans: 4000 points, 18 epochs, off from scikit-learn's centers by at most",
}


def in_one_process(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TASKGRAPH_")}
    environ = plain | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


def test_every_example_is_run_here():
    assert {script.stem for script in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_passes_its_own_check_in_one_process(name):
    done = in_one_process(EXAMPLES / f"{name}.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(SAYS[name])
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("name", "ranks"), [("regression", 4), ("digits", 4), ("heat", 2), ("heat", 8), ("kmeans", 1)])
def test_an_example_passes_its_own_check_under_mpirun(name, ranks):
    done = spmd.run(EXAMPLES / f"{name}.py", ranks=ranks, timeout_s=120)
    assert done.status == 0, done.stderr
    assert done.stdout.startswith(SAYS[name])
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("regression", ["--tasks", "1"]),
        ("digits", ["--tasks", "3"]),
        ("heat", ["--grid", "1", "1", "--epochs", "1"]),
        ("heat", ["--grid", "3", "7", "--epochs", "50"]),
        ("kmeans", ["--tasks", "1"]),
        ("kmeans", ["--tasks", "5", "--epochs", "3"]),
    ],
)
def test_an_example_passes_with_other_options(name, arguments):
    done = in_one_process(EXAMPLES / f"{name}.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_example_whose_check_does_not_hold_says_so_by_its_status():
    done = in_one_process(EXAMPLES / "digits.py", "--epochs", "2")
    assert done.returncode == 1
    assert done.stdout.startswith("digits: test accuracy")


def test_the_first_program_gives_the_same_weights_on_four_ranks_and_in_one_process():
    alone, together = in_one_process(LOGREG), spmd.run(LOGREG, ranks=4, timeout_s=120)
    assert (alone.returncode, together.status) == (0, 0), alone.stderr + together.stderr
    assert len(re.findall(r"\d\.\d+", alone.stdout)) == 64
    assert together.stdout == alone.stdout


def test_the_program_in_the_readme_prints_what_the_readme_says(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (command, said) = re.findall(r"\$ (mpirun .*?)\n(.*?)\n```", readme, re.DOTALL)[0]
    script = tmp_path / command.split()[-1]
    script.write_text(program, encoding="utf-8")
    ranks = int(command.split("-n ")[1].split()[0])
    warning, result = said.splitlines()
    assert in_one_process(script).stdout.strip() == result
    done = spmd.run(script, ranks=ranks, timeout_s=120)
    assert done.stdout.strip() == result
    begins, _, line = warning.partition(": ")
    assert begins in done.stderr
    assert line == f"mpirun --with-ft ulfm -n {ranks} python {script.name}"
