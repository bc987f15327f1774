"""Jobs whose etcd is away: for as long as nothing fails they need none, and what fails meanwhile waits for it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from etcds import LIMIT_S as ETCD_LIMIT_S
from etcds import OwnEtcd, free_port
from fates import LIMIT_S, PROGRAM, assert_right, failure_line

from taskgraph.backends.etcd_channel import EtcdChannel
from taskgraph.testing.leftovers import processes


@pytest.fixture
def users(tmp_path: Path) -> Iterator[OwnEtcd]:
    """An etcd of the user's."""
    own = OwnEtcd(tmp_path / "etcd")
    yield own
    own.server.stop()


def start(mpirun, users, *args, **env):
    options = {"TASKGRAPH_ETCD": users.server.endpoint} | {f"TASKGRAPH_{name}": value for name, value in env.items()}
    return mpirun.start(PROGRAM, ranks=3, args=args, env=options, ulfm=True)


def etcd_of(job) -> int:
    """Return the pid of the etcd that a job brought."""
    return next(one.pid for one in processes(job.marker) if "--data-dir" in one.command)


def test_a_job_runs_through_an_outage_of_the_users_etcd_and_ends_well_in_it(mpirun, users):
    job = start(mpirun, users, 30, 0.05)
    job.wait_for_line("epoch 5$", LIMIT_S)
    users.kill()
    done = job.finish(LIMIT_S)
    assert_right(done, 30)


def test_a_failure_in_an_outage_is_handled_when_etcd_is_back(mpirun, users):
    job = start(mpirun, users, 30, 0.05, "1:10:signal=9")
    job.wait_for_line("epoch 5$", LIMIT_S)
    users.kill()
    job.wait_for_line("rank 1 meets", LIMIT_S)
    users.start()
    done = job.finish(LIMIT_S)
    assert_right(done, 30)
    assert "killed by SIGKILL" in failure_line(done) or "MPI reports" in failure_line(done)


def test_a_job_that_lost_a_rank_and_ends_in_an_outage_ends_when_etcd_is_back(mpirun, users):
    job = start(mpirun, users, 20, 0.05, "1:5:signal=9")
    job.wait_for_line("epoch 10$", LIMIT_S)
    users.kill()
    job.wait_for_line("result", LIMIT_S)
    users.start()
    assert_right(job.finish(LIMIT_S), 20)


def test_a_failure_that_etcd_does_not_come_back_for_ends_the_job_with_that_message(mpirun, users):
    job = start(mpirun, users, 200, 0.05, "1:30:signal=9", ETCD_LOST_AFTER_S="2")
    job.wait_for_line("epoch 5$", LIMIT_S)
    users.kill()
    done = job.finish(LIMIT_S)
    assert done.stderr.count("and a failure waits to be recovered from (status 1)") == 1, done
    assert "result" not in done.stdout
    assert "status 0" not in done.stdout


def test_a_job_goes_on_after_etcd_was_compacted_behind_its_back(mpirun, users):
    job = start(mpirun, users, 40, 0.05, "1:20:signal=9")
    job.wait_for_line("epoch 5$", LIMIT_S)
    users.kill()
    compact(users)
    users.start()
    assert_right(job.finish(LIMIT_S), 40)


def compact(users: OwnEtcd) -> None:
    """Change keys of others and compact the history, at an endpoint that no job knows."""
    hidden = replace(users.server, endpoint=f"127.0.0.1:{free_port()}").restart(ETCD_LIMIT_S)
    channel = EtcdChannel(replace(users.access, endpoints=(hidden.endpoint,)))
    revision = 0
    for number in range(20):
        put = channel.rpc.PutRequest(key=b"/others/key", value=str(number).encode())
        revision = channel.call("KV.Put", put).message.header.revision
    channel.call("KV.Compact", channel.rpc.CompactionRequest(revision=revision, physical=True))
    channel.close()
    hidden.stop()


def test_a_job_whose_etcd_was_wiped_runs_through(mpirun, users):
    job = start(mpirun, users, 40, 0.05)
    job.wait_for_line("epoch 5$", LIMIT_S)
    wipe(users)
    job.wait_for_line("etcd is lost", LIMIT_S)
    assert_right(job.finish(LIMIT_S), 40)


def test_a_failure_after_etcd_was_wiped_ends_the_job_with_that_message(mpirun, users):
    job = start(mpirun, users, 400, 0.05, "1:60:signal=9")
    job.wait_for_line("epoch 5$", LIMIT_S)
    wipe(users)
    job.wait_for_line("etcd is lost", LIMIT_S)
    done = job.finish(LIMIT_S)
    assert done.stderr.count("a failure cannot be recovered from (status 1)") == 1, done
    assert "result" not in done.stdout


def wipe(users: OwnEtcd) -> None:
    endpoint = users.server.endpoint
    users.kill()
    shutil.rmtree(users.directory)
    users.directory.mkdir()
    fresh = replace(users.server, endpoint=endpoint)
    users.server = fresh.restart(ETCD_LIMIT_S)


def test_the_jobs_own_etcd_is_started_again_where_it_was_killed(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=[40, 0.05, "1:25:signal=9"], ulfm=True)
    job.wait_for_line("epoch 5$", LIMIT_S)
    os.kill(etcd_of(job), signal.SIGKILL)
    assert_right(job.finish(LIMIT_S), 40)


def test_the_jobs_own_etcd_and_a_rank_may_be_killed_at_the_same_moment(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=[40, 0.05], ulfm=True)
    job.wait_for_line("epoch 5$", LIMIT_S)
    for pid in (etcd_of(job), job.ranks()[1]):
        os.kill(pid, signal.SIGKILL)
    done = job.finish(LIMIT_S)
    assert_right(done, 40)
    assert "killed by SIGKILL" in failure_line(done) or "MPI reports" in failure_line(done)
