"""The proof tool: what it takes for right, and that it finds what is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taskgraph.errors import UsageError
from taskgraph.testing.chaos import check_command, draws
from taskgraph.testing.mpirun import command
from taskgraph.testing.proofs import Verdict, judge, read

ROOT = Path(__file__).parent.parent
HEAVY = ROOT / "tests" / "programs" / "heavy.py"
LOST = "all copies of task 1 are lost: ranks 1, 2 held it"


def proof(directory, *lines):
    """Return the proof of three ranks on three hosts, two tasks, and these events: rank, event, its fields."""
    directory.mkdir()
    for rank in range(3):
        some = [("start", {"hosts": ["a", "b", "c"], "tasks": 2, "backups": 1})]
        some += [(event, fields) for of, event, fields in lines if of == rank]
        text = "".join(json.dumps({"event": event, **fields}) + "\n" for event, fields in some)
        (directory / f"rank-{rank}.1.jsonl").write_text(text)
    return read(directory)


def state(rank, task, digest):
    return rank, "state", {"task": task, "digest": digest, "epochs": 5, "generation": 0}


def end(rank, status=0, message=""):
    return rank, "end", {"status": status, "message": message}


@pytest.fixture
def reference(tmp_path):
    return proof(tmp_path / "reference", state(0, 0, "x"), state(1, 1, "y"), end(0), end(1), end(2))


KILLED = (1, "fault", {"fault": "kill rank=1 epoch=3 phase=compute", "point": "compute.end", "epoch": 3})


@pytest.mark.parametrize(
    ("lines", "verdict", "why"),
    [
        ([KILLED, state(0, 0, "x"), state(2, 1, "y"), end(0), end(2)], Verdict.RIGHT, ""),
        ([KILLED, state(0, 0, "x"), state(2, 1, "z"), end(0), end(2)], Verdict.WRONG, "another final state of tasks 1"),
        (
            [KILLED, state(1, 1, "z"), state(2, 1, "y"), state(0, 0, "x"), end(0), end(2)],
            Verdict.WRONG,
            "another final state of tasks 1",
        ),
        ([KILLED, state(0, 0, "x"), end(0), end(2)], Verdict.WRONG, "no final state of tasks 1"),
        ([KILLED, end(0, 1, "bad"), end(2, 1, "bad")], Verdict.WRONG, "it ended with status 1: bad"),
        ([KILLED, state(0, 0, "x"), state(2, 1, "y"), end(0)], Verdict.WRONG, "ranks 2 did not come to the end"),
        ([KILLED], Verdict.WRONG, "no rank came to the end"),
        ([KILLED, end(0, 1, LOST), end(2, 1, LOST)], Verdict.LOST, LOST),
        ([KILLED, end(0, 1, LOST), end(2)], Verdict.WRONG, "ranks disagree on the end"),
    ],
)
def test_a_run_with_failures_is_judged_by_the_one_without(tmp_path, reference, lines, verdict, why):
    found, said = judge(reference, proof(tmp_path / "run", *lines))
    assert found is verdict
    assert said.startswith(why)


def test_a_job_that_wrote_nothing_has_no_proof(tmp_path):
    with pytest.raises(ValueError, match="did not start"):
        read(tmp_path)


def test_each_run_has_its_own_seed_so_that_it_can_be_repeated_alone(reference):
    many = list(draws(reference, 7, 5, (1, 3), hosts=True))
    assert [seed for seed, _ in many] == [7, 8, 9, 10, 11]
    assert list(draws(reference, 9, 1, (1, 3), hosts=True)) == [many[2]]


def test_a_launch_line_that_survives_nothing_is_refused():
    with pytest.raises(UsageError, match="--with-ft ulfm"):
        check_command(["/usr/bin/mpirun", "-n", "2", "python", "driver.py"])


def chaos(*words, env=()):
    """Run ``taskgraph chaos`` as a user does."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TASKGRAPH_", "OMPI_"))}
    return subprocess.run(
        [sys.executable, "-m", "taskgraph", "chaos", *map(str, words)],
        env=plain | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **dict(env)},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch", "x"], "Error: 'nosuch' cannot be run: No such file or directory"),
        (["./driver.py", "x"], "Error: './driver.py' cannot be run: Permission denied"),
        (
            [sys.executable, "driver.py"],
            "starts no ranks, whose failures could be tried: put a launcher before it, as in mpirun --with-ft ulfm",
        ),
        (["sh", "driver.py"], "the job did not start"),
    ],
)
def test_a_command_that_starts_no_job_is_told_in_one_line(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "driver.py").write_text("")
    done = chaos("--", *words)
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert said in line


def test_a_driver_survives_kills_of_ranks_and_hosts_with_the_same_result():
    hosts = {"TASKGRAPH_RANKS_PER_HOST": "2", "TASKGRAPH_BACKUPS": "1"}
    launch = command(6, [str(HEAVY), "--kib", "64"], ulfm=True)
    done = chaos("--runs", 2, "--seed", 41, "--kills", "1-3", "--hosts", "--", *launch, env=hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 tasks on 6 ranks of 3 hosts, 12 epochs" in done.stdout
    assert len(re.findall(r"kill-host rank", done.stdout)) == 2
    assert len(re.findall(r"kill rank", done.stdout)) == 3
    assert "0 wrong, 0 hung, 0 left something behind" in done.stdout


SPOILT = """
import os, sys, numpy as np, taskgraph as tg

class Spoilt(tg.Task):
    def init(self, framework):
        self.x = framework.protect("x", np.zeros(1))
        self.calls = 0  # not protected: a task that is made anew counts from 0 again

    def set_epoch(self, ctx, epoch):
        ctx.compose(self.step)

    def step(self, ins, outs):
        self.calls += 1
        self.x[:] = self.calls

job = tg.Job("spoilt", num_tasks=2, epochs=8)
job.set_task_builder(lambda task: Spoilt())
sys.exit(job.start())
"""


def test_state_that_was_left_unprotected_is_found(tmp_path):
    driver = tmp_path / "spoilt.py"
    driver.write_text(SPOILT)
    done = chaos(
        "--faults", "kill rank=1 epoch=4", "--keep", tmp_path / "kept", "--", *command(2, [str(driver)], ulfm=True)
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "another final state of tasks 0, 1" in done.stdout
    (kept,) = (tmp_path / "kept").iterdir()
    assert "TASKGRAPH_FAULTS='kill rank=1 epoch=4'" in kept.read_text()
