"""What a task may ask of the framework: who it is, and state that survives."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from jobs import Composed, job_of, run

from taskgraph import Framework, Task, UsageError
from taskgraph.testing import run as run_job


def framework() -> Framework:
    return Framework(3, 8, True, lambda status: None)


def test_a_task_knows_who_it_is():
    mine = framework()
    assert (mine.task_id, mine.num_tasks, mine.is_primary) == (3, 8, True)
    assert mine.logger is logging.getLogger("taskgraph.task.3")


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0)))
def test_a_protected_array_is_a_copy(given_array):
    state = framework().protect("state", given_array)
    assert type(state) is np.ndarray
    assert (state.dtype, state.shape, state.tobytes()) == (given_array.dtype, given_array.shape, given_array.tobytes())
    assert state.flags.writeable
    assert state.flags.owndata
    assert not np.may_share_memory(state, given_array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_protected_array_keeps_its_order(order):
    state = framework().protect("state", np.zeros((3, 4), order=order))
    assert state.flags.f_contiguous == (order == "F")
    assert state.flags.contiguous or state.flags.f_contiguous


def test_a_protected_array_is_contiguous_and_writable_whatever_was_given():
    given_array = np.arange(20).reshape(4, 5)[::2, ::-1]
    given_array.flags.writeable = False
    state = framework().protect("state", given_array)
    assert state.flags.c_contiguous
    assert state.flags.writeable
    assert np.array_equal(state, given_array)


@pytest.mark.parametrize("value", [5, 2.5, [1, 2, 3], [[1.0, 2.0]], np.float32(3)])
def test_anything_that_makes_an_array_may_be_protected(value):
    assert np.array_equal(framework().protect("state", value), np.asarray(value))


@pytest.mark.parametrize("array", [np.array([None]), np.array([{}, 1]), np.zeros(2, [("a", "O")])])
def test_an_array_of_objects_is_refused(array):
    with pytest.raises(UsageError, match=r"protect\('state'\).*holds Python objects: use save= and load="):
        framework().protect("state", array)


class WithUnit(np.ndarray):
    unit = "m"


@pytest.mark.parametrize("array", [np.ma.zeros(3), np.zeros(3).view(WithUnit)], ids=["masked", "of the user's own"])
def test_an_array_that_is_more_than_its_elements_is_refused(array):
    with pytest.raises(UsageError, match=r"was given a \w+, of which only the elements would be kept"):
        framework().protect("x", array)


def test_a_name_given_twice_is_refused():
    mine = framework()
    mine.protect("state", np.zeros(1))
    with pytest.raises(UsageError, match=r"protect\('state'\) was called twice by task 3"):
        mine.protect("state", np.zeros(1))
    with pytest.raises(UsageError, match=r"protect\('state'\) was called twice by task 3"):
        mine.protect("state", save=bytes, load=lambda data: None)


@pytest.mark.parametrize("name", ["", 5, None])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(UsageError, match=f"name={name!r} is not a name"):
        framework().protect(name, np.zeros(1))


def test_state_that_is_no_array_is_saved_and_loaded_by_functions():
    assert framework().protect("state", save=lambda: b"", load=lambda data: None) is None


@pytest.mark.parametrize("half", [{}, {"save": bytes}, {"load": len}, {"save": b"", "load": len}])
def test_save_and_load_go_together(half):
    with pytest.raises(UsageError, match="needs an array, or both save= and load="):
        framework().protect("state", **half)


def test_an_array_and_functions_are_too_much():
    with pytest.raises(UsageError, match="was given an array and save= or load="):
        framework().protect("state", np.zeros(1), save=bytes, load=len)


class Late(Task):
    def init(self, framework):
        self.framework = framework

    def set_epoch(self, ctx, epoch):
        self.framework.protect("late", np.zeros(1))


def test_protecting_after_init_is_refused():
    with pytest.raises(UsageError, match=r"protect\('late'\) was called after init"):
        run(Late())


class Counter(Task):
    """Counts in a protected array, and writes down what it is told."""

    def init(self, framework):
        self.given = np.zeros(1)
        self.state = framework.protect("count", self.given)
        self.is_primary = framework.is_primary

    def set_epoch(self, ctx, epoch):
        ctx.compose(self.count)

    def count(self, ins, outs):
        self.state += 1


def test_the_protected_array_is_the_state_from_then_on():
    task = Counter()
    assert run(task, epochs=5) == 0
    assert task.state.tolist() == [5]
    assert task.given.tolist() == [0]


@pytest.mark.parametrize("backups", [0, 1, 2])
def test_replicas_are_made_and_set_up_and_only_the_primary_runs(backups):
    made: list[Counter] = []

    def build(task_id):
        made.append(Counter())
        return made[-1]

    job = job_of(None, epochs=3, backups=backups)
    job.set_task_builder(build)
    assert run_job(job, ranks=4) == 0
    assert sorted(task.is_primary for task in made) == [False] * backups + [True]
    assert all(task.state.tolist() == [3 if task.is_primary else 0] for task in made)


def test_only_the_primary_is_told_of_commits_and_of_the_end():
    told = []

    class Witness(Composed):
        def init(self, framework):
            self.role = "primary" if framework.is_primary else "backup"
            told.append(("init", self.role))

        def committed(self, epoch):
            told.append((f"committed {epoch}", self.role))

        def exit(self):
            told.append(("exit", self.role))

        def became_primary(self):
            told.append(("became_primary", self.role))

        def became_backup(self):
            told.append(("became_backup", self.role))

    job = job_of(None, epochs=2, backups=1)
    job.set_task_builder(lambda task_id: Witness(lambda ctx, epoch: ctx.compose(lambda ins, outs: None)))
    assert run_job(job, ranks=2) == 0
    assert sorted(told[:2]) == [("init", "backup"), ("init", "primary")]
    assert told[2:] == [("committed 0", "primary"), ("committed 1", "primary"), ("exit", "primary")]
