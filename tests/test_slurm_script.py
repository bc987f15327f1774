"""The batch script that ``taskgraph slurm script`` writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from taskgraph.cli.main import main


def written(*words: str) -> str:
    done = CliRunner().invoke(main, ["slurm", "script", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_it_says_what_slurm_has_to_know():
    text = written("--hosts", "4", "--ranks", "8", "--time", "2:00:00", "--warn", "300", "driver.py")
    for line in (
        "#!/bin/bash",
        "#SBATCH --job-name=driver",
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --time=2:00:00",
        "#SBATCH --no-kill",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@300",
    ):
        assert any(found.startswith(line) for found in text.splitlines()), line


def test_all_that_slurm_reads_comes_before_the_first_command():
    lines = written("--partition", "long", "driver.py").splitlines()
    first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]
    assert "#SBATCH --partition=long" in lines[:first]


def test_what_the_driver_is_given_reaches_it_as_it_is(tmp_path: Path):
    driver = tmp_path / "my driver.py"
    text = written("--checkpoint", "file:///a b/c", "--backups", "1", str(driver), "--name", "it's $HOME", "-n", "3")
    replaced = text.replace(f"exec {sys.executable} -m taskgraph", "printf '%s\\n' \"$TASKGRAPH_CHECKPOINT\"")
    done = subprocess.run(["bash", "-eu", "-c", replaced], capture_output=True, text=True, timeout=30, check=True)
    words = ["file:///a b/c", "run", "--requeue", str(driver), "--name", "it's $HOME", "-n", "3"]
    assert done.stdout.splitlines() == words


def test_the_warning_does_not_end_what_is_still_starting():
    """Python takes a second or two to import what it needs; until then the signal would kill it."""
    text = written("driver.py").replace(f"exec {sys.executable} -m taskgraph", "kill -USR1 $$; exec echo")
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "run --requeue driver.py\n"), done


def test_a_job_that_would_begin_from_the_start_is_told_to():
    assert "begins from the start" in written("driver.py")
    assert "begins from the start" not in written("--checkpoint", "s3://b/c", "driver.py")


@pytest.mark.parametrize("words", [["--hosts", "0", "d.py"], ["--time", "soon", "d.py"], ["--hosts", "2"]])
def test_what_makes_no_sense_is_refused(words):
    assert CliRunner().invoke(main, ["slurm", "script", *words]).exit_code != 0
