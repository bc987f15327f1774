"""Checkpoints of real jobs: written while the job runs, and gone on from when all else is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
import uuid
from pathlib import Path

import pytest

from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.plan.checkpoints import KEEP
from taskgraph.testing import kill_host
from tests.fates import LIMIT_S, PROGRAM, assert_right
from tests.supervised import supervised

EPOCHS = 40
FULL = PROGRAM.with_name("full.py")


@pytest.fixture
def job(tmp_path, mpirun):
    return Job(mpirun, tmp_path / "store")


class Job:
    """Runs of one job, whose checkpoints are kept from one to the next."""

    def __init__(self, mpirun, url: Path | str) -> None:
        self.mpirun = mpirun
        self.url = url
        self.name = f"checkpointing-{uuid.uuid4().hex[:8]}"

    def env(self, **options: object) -> dict[str, str]:
        asked = {"checkpoint": self.url, "checkpoint_every": 5, **options}
        return {"JOB": self.name} | {f"TASKGRAPH_{name.upper()}": str(value) for name, value in asked.items()}

    def start(self, ranks=2, epochs=EPOCHS, pause_s=0.02, **options):
        env = self.env(**options)
        return self.mpirun.start(PROGRAM, ranks=ranks, args=[epochs, pause_s], env=env, ulfm=True)

    def run(self, ranks=2, epochs=EPOCHS, pause_s=0.01, **options):
        return self.start(ranks, epochs, pause_s, **options).finish(LIMIT_S)

    def kill_all(self, running) -> None:
        """Kill every rank and the launcher at one moment."""
        pids = [*running.ranks().values(), running.pid]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                os.kill(pid, number)

    def lose_memory(self, host: int) -> None:
        """Let the snapshots of a killed host go as they do with a machine: the next launch would find them here."""
        (slots,) = Path("/dev/shm").glob(f"taskgraph-*-{self.name}-*-{host}/slots")
        shutil.rmtree(slots)

    def complete(self) -> list[int]:
        """Return the boundaries of all complete checkpoints."""
        store = CheckpointStore(str(self.url), self.name)
        return sorted(name.boundary for name in store.names() if store.manifest(name) is not None)

    def files(self, boundary: int) -> list[Path]:
        (path,) = Path(self.url, self.name).glob(f"{boundary}.*")
        return sorted(path.glob("task-*"))


def went_on_at(done) -> int | None:
    found = re.search(r"taskgraph: the job goes on at epoch (\d+), from checkpoint", done.stderr)
    return None if found is None else int(found[1])


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-30] ^= 4
    file.write_bytes(data)


def killed_in(job: Job, epoch: int, **options) -> None:
    """Run the job, and kill all of it in an epoch."""
    running = job.start(pause_s=0.05, **options)
    running.wait_for_line(f"epoch {epoch}$")
    job.kill_all(running)
    running.finish(LIMIT_S)


def test_a_job_that_was_killed_goes_on_from_the_newest_complete_checkpoint_on_any_number_of_ranks(job):
    killed_in(job, 17)
    newest = max(job.complete())
    assert 10 <= newest <= 15
    done = job.run(ranks=3)
    assert went_on_at(done) == newest, done
    assert f"epoch {newest - 1}\n" not in done.stdout
    assert_right(done, EPOCHS)
    assert len(job.complete()) == KEEP


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(job):
    killed_in(job, 22)
    before, newest = job.complete()
    damage(job.files(newest)[2])
    done = job.run()
    assert re.search(rf"checkpoint {newest}\.\S+ of job .* is not used.*the file of task 2 is damaged", done.stderr), (
        done
    )
    assert went_on_at(done) == before, done
    assert_right(done, EPOCHS)


def test_after_a_job_that_has_finished_the_next_begins_afresh(job):
    assert_right(job.run(resume="never"), EPOCHS)
    assert job.complete()
    done = job.run()
    assert went_on_at(done) is None
    assert_right(done, EPOCHS)
    done = job.run(resume="require")
    assert done.status == 1
    assert "has no complete checkpoint of an unfinished job" in done.stderr


def test_where_all_copies_of_a_task_are_lost_the_same_run_goes_back_to_the_checkpoint(job):
    faults = "; ".join(str(kill_host(number, epoch=27)) for number in (1, 2))  # tasks 1 and 2, and all their copies
    done = job.run(ranks=4, ranks_per_host=1, faults=faults, pause_s=0.02)
    found = re.search(
        r"made from checkpoint (\d+)\..*what was committed after that is undone; epoch (\d+) is", done.stderr
    )
    assert found, done
    assert found[1] == found[2]
    assert int(found[1]) in (15, 20, 25)
    assert_right(done, EPOCHS)


def test_where_the_checkpoint_to_go_back_to_is_damaged_a_supervised_job_takes_the_one_before(job):
    faults = "; ".join(str(kill_host(number, epoch=13)) for number in (1, 2))
    env = job.env(ranks_per_host=1, faults=faults)
    with supervised([16, 0.3], ranks=4, program=PROGRAM, env=env) as running:
        running.wait_for_line("epoch 10$")
        deadline = time.monotonic() + LIMIT_S
        while 10 not in job.complete():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        damage(job.files(10)[2])
        for number in (1, 2):
            running.wait_for_line(f"fault injected: kill-host host={number}")
            job.lose_memory(number)
        done = running.finish(LIMIT_S)
    assert "task 2" in done.stderr, done
    assert "launching it again (relaunch 1)" in done.stderr, done
    assert re.search(r"checkpoint 10\.\S+ of job .* is not used.*the file of task 2 is damaged", done.stderr), done
    assert went_on_at(done) == 5, done
    assert_right(done, 16)


@pytest.mark.parametrize(("number", "pause_s"), [(signal.SIGUSR1, 0.02), (signal.SIGTERM, 0.2), (signal.SIGUSR1, 1.0)])
def test_a_signal_at_a_rank_ends_the_job_with_a_checkpoint_and_less_than_an_epoch_lost(job, number, pause_s):
    options = {"checkpoint_every": "auto", "epochs": EPOCHS if pause_s == 0.02 else 9}
    running = job.start(pause_s=pause_s, **options)
    running.wait_for_line(f"epoch {2 if pause_s == 1.0 else 5}$")
    os.kill(running.ranks()[1], number)
    done = running.finish(LIMIT_S)
    assert re.search(r"taskgraph: rank 1 was told to end the job: it got SIG.*\(status 75\)", done.stderr), done
    assert "result" not in done.stdout
    begun = max(int(epoch) for epoch in re.findall(r" epoch (\d+)$", done.stdout, re.MULTILINE))
    again = job.run(**options)
    at = went_on_at(again)
    assert at is not None, again
    assert at >= begun, (done, again)  # all that was finished counts
    assert_right(again, options["epochs"])


@pytest.mark.parametrize("after_s", [0.0, 0.15])
def test_a_root_that_dies_while_the_job_is_about_to_pause_is_replaced_and_the_job_pauses(job, after_s):
    options = {"checkpoint_every": "auto", "epochs": 20, "backups": 1, "ranks": 3, "ranks_per_host": 1}
    running = job.start(pause_s=0.3, **options)
    running.wait_for_line("epoch 3$")
    ranks = running.ranks()
    os.kill(ranks[1], signal.SIGUSR1)
    time.sleep(after_s)
    os.kill(ranks[0], signal.SIGKILL)
    done = running.finish(LIMIT_S)
    assert "rank 1 was told to end the job: it got SIGUSR1" in done.stderr, done
    assert "result" not in done.stdout
    again = job.run(**options)
    assert went_on_at(again) is not None, again
    assert_right(again, options["epochs"])


def test_a_full_disk_is_a_loud_warning_and_not_the_end_of_the_job(job):
    job.url = f"full://{job.url}"
    env = job.env() | {"FILES": "5"}
    done = job.mpirun.run(FULL, ranks=2, args=[EPOCHS, 0.03], env=env, ulfm=True, timeout_s=LIMIT_S)
    assert re.search(r"NO CHECKPOINT of boundary \d+: rank \d: .*No space left.*The job goes on", done.stderr), done
    assert_right(done, EPOCHS)


def test_a_place_that_not_all_ranks_share_is_told_at_the_start(job):
    job.url = "memory://of-each-rank"
    done = job.run(ranks=2, ranks_per_host=1, epochs=5)
    assert re.search(r"THERE WILL BE NO CHECKPOINTS: hosts \S+\.1 do not see what rank 0 writes", done.stderr), done
    assert_right(done, 5)


def test_a_store_that_cannot_be_written_to_is_a_loud_warning_and_not_the_end_of_the_job(job, tmp_path):
    (tmp_path / "file").touch()
    job.url = tmp_path / "file" / "store"
    done = job.run(resume="never")
    assert "NO CHECKPOINTS for now: " in done.stderr
    assert re.search(r"NO CHECKPOINT of boundary 5: .*the newest complete checkpoint is none", done.stderr), done
    assert_right(done, EPOCHS)
