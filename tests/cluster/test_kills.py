"""The whole allocation is killed with -9 at any moment, again and again: each run goes on where one before was safe."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest
from batch import Batch, assert_nothing_left, kill_all, ring, undisturbed
from lab import Lab

from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.plan.manifest import Manifest, Name

KILLS = int(os.environ.get("CLUSTER_KILLS", "20"))
SEED = int(os.environ.get("CLUSTER_SEED", "1"))
EPOCHS, MS = 1500, 20
LONGEST_S = 3.0
"""How long after its start, or after its first epoch, a run is killed at the latest."""
THREE_HOSTS = ("--nodes=3", "--ntasks-per-node=2", "--no-kill", "--no-requeue")


def complete(store: CheckpointStore) -> dict[Name, Manifest]:
    """Return the complete checkpoints that there are."""
    found = {name: store.manifest(name) for name in store.names()}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def assert_went_on(job: Batch, newest: Name | None) -> bool:
    """If a run has begun an epoch, the first was that of the newest complete checkpoint; return whether it has."""
    done = job.epochs()
    assert not done or done[0] == (0 if newest is None else newest.boundary), job.text()
    return bool(done)


def remove_unknown(lab: Lab, host: str) -> None:
    """Remove directories that daemons made on a host before a program of ours ran there: nobody can know of them."""
    for path in lab.run(host, "sh", "-c", "ls -d /tmp/ompi.* /tmp/prted.* || true").split():
        if not lab.run(host, "sh", "-c", 'grep -rlF ""$0"" /dev/shm/taskgraph-* || true', path):
            lab.run(host, "rm", "-r", path)


def kill_at_some_moment(lab: Lab, job: Batch, chance: random.Random) -> str:
    """Kill a run while it starts, or while it works, and say which."""
    while_starting, delay_s = chance.random() < 0.25, chance.uniform(0, LONGEST_S)
    if while_starting:
        lab.wait_for(lambda: lab.state(job.number) == "RUNNING", "the job runs")
    else:
        job.wait_for_line(r"^epoch \d+$")
    time.sleep(delay_s)
    kill_all(lab, lab.names)
    for host in lab.names:
        remove_unknown(lab, host)
    return f"{delay_s:.1f} s after its {'start' if while_starting else 'first epoch'}"


@pytest.mark.timeout(180 + 60 * KILLS)
def test_each_run_after_a_kill_goes_on_from_the_newest_complete_checkpoint_to_the_right_result(
    lab: Lab, submit: Callable[..., Batch]
):
    chance = random.Random(SEED)
    place = lab.directory / f"checkpoints-{time.time_ns()}"
    store = CheckpointStore(place.as_uri(), "ring")
    env = {"TASKGRAPH_CHECKPOINT": place.as_uri(), "TASKGRAPH_CHECKPOINT_EVERY": "10"}
    newest, worked = None, 0
    for number in range(1, KILLS + 1):
        job = submit(ring(epochs=EPOCHS, ms=MS), *THREE_HOSTS, env=env)
        moment = kill_at_some_moment(lab, job, chance)
        assert job.finish() != "COMPLETED", f"run {number} was over before it was killed {moment}"
        worked += assert_went_on(job, newest)
        newest = max(complete(store), default=None, key=lambda name: name.boundary)
        print(f"run {number} was killed {moment}; the newest complete checkpoint is {newest}", flush=True)
    job = submit(ring(epochs=EPOCHS, ms=MS), *THREE_HOSTS, env=env)
    assert job.finish() == "COMPLETED", job.text()
    assert assert_went_on(job, newest)
    assert job.results() == undisturbed(EPOCHS), job.text()
    assert worked >= KILLS // 3
    assert_nothing_left(lab, lab.names)
