"""Whose memory a value is: lent by its sender until the epoch ends, and the receiver's own for ever."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from programs import memory
from programs.carry import carrying

import taskgraph as tg
from taskgraph._native.message import pool_state

PROGRAM = Path(memory.__file__)
MPI_ENV = {"PYTHONPATH": os.pathsep.join(filter(None, [str(PROGRAM.parent.parent), os.environ.get("PYTHONPATH")]))}


def test_a_large_array_is_read_only_until_the_epoch_ends_and_what_was_got_is_never_overwritten():
    assert tg.testing.run(memory.lending(), ranks=2) == 0


def test_a_large_array_is_read_only_until_the_epoch_ends_and_what_was_got_is_never_overwritten_over_mpi(mpirun):
    done = mpirun.run(PROGRAM, ranks=2, args=["lending"], env=MPI_ENV)
    assert done.stdout.splitlines() == ["status 0"] * 2, done


def test_an_array_of_more_than_two_gibibytes_arrives_over_mpi(mpirun):
    done = mpirun.run(PROGRAM, ranks=2, args=["giant"], env=MPI_ENV, timeout_s=120)
    assert done.stdout.splitlines() == ["status 0"] * 2, done


def received(count: int, size: int) -> list[np.ndarray]:
    got: list[np.ndarray] = []
    job = carrying(
        [lambda n=n: np.full(size, n % 256, np.uint8) for n in range(count)], lambda _, array: got.append(array)
    )
    tg.testing.run(job)
    del job
    gc.collect()
    return got


def test_more_arrays_may_be_kept_than_the_pool_has_room_for():
    kept = received(1100, 65_536)
    assert all((array == n % 256).all() for n, array in enumerate(kept))


@pytest.mark.parametrize("size", [65_536, 100_000, 3_000_000])
@pytest.mark.parametrize("factor", [0.5, 3])
def test_a_received_array_may_be_resized(size, factor):
    (array,) = received(1, size)
    array[:] = 7
    array.resize(int(size * factor), refcheck=False)
    assert (array[: min(size, array.size)] == 7).all()
    assert not array[size:].any()


def test_memory_of_arrays_that_were_let_go_is_taken_again():
    del received(1, 1_000_000)[:]
    idle_before = pool_state()[1]
    assert idle_before >= 1_000_000
    (array,) = received(1, 1_000_000)
    assert pool_state()[1] == idle_before - -(-array.nbytes // 4096) * 4096


def test_the_pool_keeps_no_more_than_was_once_in_use():
    del received(20, 1_000_000)[:]
    in_use, idle, peak = pool_state()
    assert in_use + idle <= peak + peak // 4
