"""What a job leaves in the user's etcd: nothing, however it ended."""

from __future__ import annotations

import os
import signal
import time

import pytest
from fates import LIMIT_S, PROGRAM, assert_right

from taskgraph.backends.etcd_channel import EtcdChannel

pytest_plugins = ["etcd_fixtures"]

GONE_S = 15.0  # a lease and some


@pytest.fixture
def keys(own_etcd):
    """Return the names of all keys that are there."""
    channel = EtcdChannel(own_etcd.access)
    rpc = channel.rpc

    def names() -> list[str]:
        everything = rpc.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True)
        return [kv.key.decode() for kv in channel.call("KV.Range", everything).message.kvs]

    yield names
    channel.close()


def start(mpirun, etcd, *args, **env):
    options = {"TASKGRAPH_ETCD": etcd.server.endpoint, "TASKGRAPH_RANKS_PER_HOST": "1"} | env
    return mpirun.start(PROGRAM, ranks=3, args=args, env=options, ulfm=True)


def assert_all_go(keys) -> None:
    until = time.monotonic() + GONE_S
    while (left := keys()) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []


def test_nothing_stays_after_a_job_that_ended_well_or_lost_a_rank(mpirun, own_etcd, keys):
    for fates in ([], ["1:3:signal=9"]):
        job = start(mpirun, own_etcd, 8, 0.05, *fates)
        job.wait_for_line("epoch 2$", LIMIT_S)
        assert any(key.endswith("/run") for key in keys())
        assert_right(job.finish(LIMIT_S), 8)
        assert_all_go(keys)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_where_the_launcher_is_interrupted_or_killed(mpirun, own_etcd, keys, number):
    job = start(mpirun, own_etcd, 300, 0.05)
    job.wait_for_line("epoch 2$", LIMIT_S)
    os.kill(job.pid, number)
    job.finish(LIMIT_S)
    assert_all_go(keys)


def test_where_a_host_is_lost_with_its_keeper_the_others_wait_for_its_lease_to_end(mpirun, own_etcd, keys):
    job = start(mpirun, own_etcd, 30, 0.05, "1:3:with-keeper", TASKGRAPH_LEASE_S="2")
    assert_right(job.finish(LIMIT_S), 30)
    assert_all_go(keys)
