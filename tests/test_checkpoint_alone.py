"""Checkpoints of a job in one process, killed at any epoch and started again."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

import taskgraph as tg
from taskgraph.backends.checkpoint_store import CheckpointStore

EPOCHS = 30


class Failed(Exception):
    pass


class Node(tg.Task):
    """Adds up what its neighbour has, and keeps a log besides; fails in an epoch if it is to."""

    def __init__(self, fails_in: int | None) -> None:
        self.fails_in = fails_in

    def init(self, framework):
        self.id = framework.task_id
        self.sum = framework.protect("sum", np.full((2, 3), 1.0 + self.id, order="F"))
        self.log: list[str] = []
        framework.protect("log", save=lambda: " ".join(self.log).encode(), load=self.load)

    def load(self, data):
        self.log = data.decode().split()

    def set_epoch(self, ctx, epoch):
        if epoch == self.fails_in and self.id == 1:
            raise Failed
        self.epoch = epoch
        self.noise = ctx.rng.random()
        ctx.compose(self.give, outs=ctx.outbound(1 - self.id, "x"))
        ctx.compose(self.take, ins=ctx.inbound(1 - self.id, "x"))

    def give(self, ins, outs):
        time.sleep(0.003 if self.fails_in is not None else 0)  # so that checkpoints are written meanwhile
        outs[0].put(self.sum)

    def take(self, ins, outs):
        self.sum[:] = self.sum * 0.5 + ins[0].get() + self.noise
        self.log.append(str(self.epoch))

    def committed(self, epoch):
        COMMITTED.append((self.id, epoch))

    def exit(self):
        RESULTS[self.id] = (self.sum.tolist(), list(self.log))


RESULTS: dict[int, object] = {}
COMMITTED: list[tuple[int, int]] = []


def job(url, fails_in=None, **options) -> tg.Job:
    RESULTS.clear()
    made = tg.Job("alone", 2, epochs=EPOCHS, checkpoint=None if url is None else str(url), progress="off", **options)
    made.set_task_builder(lambda task: Node(fails_in))
    return made


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    if request.param == "file":
        yield tmp_path / "store"
    else:
        yield "memory://alone"
        fsspec.filesystem("memory").rm("/alone", recursive=True)


@pytest.fixture(scope="module")
def right():
    assert job(None).start() == 0
    return dict(RESULTS)


def complete(url) -> list[int]:
    store = CheckpointStore(str(url), "alone")
    return sorted(name.boundary for name in store.names() if store.manifest(name) is not None)


def fail_in(url, epoch: int) -> int:
    """Run the job until it fails; return the newest complete checkpoint."""
    with pytest.raises(Failed):
        job(url, epoch, checkpoint_every=4).start()
    return complete(url)[-1]


def test_a_job_that_failed_goes_on_from_the_newest_checkpoint_to_the_same_result(url, right, capfd):
    newest = fail_in(url, 14)
    assert newest in (4, 8, 12)
    COMMITTED.clear()
    assert job(url, checkpoint_every=4).start() == 0
    assert f"taskgraph: the job goes on at epoch {newest}, from checkpoint {newest}." in capfd.readouterr().err
    assert right == RESULTS
    for task in range(2):
        epochs = [epoch for of_task, epoch in COMMITTED if of_task == task]
        assert epochs == list(range(epochs[0], EPOCHS))
        assert epochs[0] <= newest
    assert job(url, checkpoint_every=4).start() == 0  # it has finished, so this one begins afresh
    assert right == RESULTS
    assert "goes on" not in capfd.readouterr().err


def test_after_two_failures_the_last_run_counts_and_never_begins_afresh(url, right, capfd):
    first = fail_in(url, 14)
    second = fail_in(url, 27)
    assert second > first
    capfd.readouterr()
    assert job(url, resume="never").start() == 0
    assert "goes on" not in capfd.readouterr().err
    assert right == RESULTS


def test_a_damaged_checkpoint_is_passed_over(tmp_path, right, capfd):
    newest = fail_in(tmp_path, 27)
    before = complete(tmp_path)[-2]
    (file,) = Path(tmp_path, "alone").glob(f"{newest}.*/task-1")
    file.write_bytes(file.read_bytes()[:-1])
    assert job(tmp_path, checkpoint_every=4).start() == 0
    assert f"the job goes on at epoch {before}," in capfd.readouterr().err
    assert right == RESULTS


def test_a_program_with_other_tasks_or_other_state_is_refused(tmp_path):
    fail_in(tmp_path, 14)
    other = tg.Job("alone", 3, epochs=EPOCHS, checkpoint=str(tmp_path))
    other.set_task_builder(lambda task: Node(None))
    with pytest.raises(tg.UsageError, match=r"num_tasks=3, but checkpoint .* of 2 tasks"):
        other.start()
    with pytest.raises(tg.UsageError, match="resume='require', but"):
        job(tmp_path / "empty", resume="require").start()


def test_a_store_that_cannot_be_read_at_the_start_is_refused_and_later_a_warning(tmp_path, right, caplog):
    (tmp_path / "file").touch()
    with pytest.raises(tg.TaskgraphError, match="cannot list"):
        job(tmp_path / "file" / "store").start()
    assert job(tmp_path / "file" / "store", checkpoint_every=4, resume="never").start() == 0
    assert "NO CHECKPOINT of boundary 4" in caplog.text
    assert right == RESULTS


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_from(tmp_path):
    program = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_checkpoint_alone as t
t.Node.give = lambda self, ins, outs, give=t.Node.give: (time.sleep(0.01), give(self, ins, outs))
if sys.argv[1] == "die":
    t.Node.take = lambda self, ins, outs, take=t.Node.take: os._exit(9) if self.epoch == 22 else take(self, ins, outs)
t.job({str(tmp_path)!r}, checkpoint_every=2).start()
print(t.RESULTS)
"""
    died = subprocess.run([sys.executable, "-c", program, "die"], timeout=60, check=False)
    assert died.returncode == 9
    done = subprocess.run(
        [sys.executable, "-c", program, "live"], timeout=60, check=True, capture_output=True, text=True
    )
    assert re.search(r"goes on at epoch (1[0-9]|2[02]),", done.stderr)
    assert job(None).start() == 0
    assert done.stdout == f"{RESULTS}\n"
