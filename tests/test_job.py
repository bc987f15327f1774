"""What a driver configures and starts."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from jobs import Composed, get_into, job_of, on_any_ranks, put

import taskgraph as tg
from taskgraph.run.start.prepare import lay_out
from taskgraph.run.start.site import Site


def nothing(ins, outs):
    pass


def idle(ctx, epoch):
    ctx.compose(nothing)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """Let `start` see neither launcher nor option, whatever the tests themselves run under."""
    import os

    for name in list(os.environ):
        if name.startswith(("OMPI_COMM_", "PMI", "PMIX_", "SLURM_", "TASKGRAPH_")):
            monkeypatch.delenv(name)


def test_without_a_launcher_the_job_runs_here_in_one_process(capsys):
    got = []
    job = job_of(
        lambda ctx, epoch: ctx.compose(put(epoch), outs=ctx.outbound(1, "x")),
        lambda ctx, epoch: ctx.compose(get_into(got), ins=ctx.inbound(0, "x")),
        epochs=3,
        progress="off",
    )
    assert job.start() == 0
    assert got == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_what_user_code_raises_in_one_process_is_raised_as_it_is():
    error = KeyError("mine")

    def fails(ins, outs):
        raise error

    with pytest.raises(KeyError) as raised:
        job_of(lambda ctx, epoch: ctx.compose(fails)).start()
    assert raised.value is error


@pytest.mark.parametrize("code", [0, None])
def test_leaving_as_if_all_were_well_in_the_middle_of_a_job_is_an_error(code):
    def leave(ins, outs):
        sys.exit(code)

    with pytest.raises(tg.TaskgraphError, match=rf"rank 0, task 0, epoch 0: the program called sys.exit\({code}\)"):
        job_of(lambda ctx, epoch: ctx.compose(leave)).start()


def test_start_returns_the_status():
    assert job_of(lambda ctx, epoch: ctx.shutdown(42), epochs=None).start() == 42


@on_any_ranks
def test_a_builder_is_a_callable_or_an_object_with_build(ranks):
    built = []

    class Builder:
        def build(self, task_id):
            built.append(task_id)
            return Composed(idle)

    job = tg.Job("job", num_tasks=4, epochs=1)
    job.set_task_builder(Builder())
    assert tg.testing.run(job, ranks=ranks) == 0
    job.set_task_builder(Builder().build)
    assert tg.testing.run(job, ranks=ranks) == 0
    assert sorted(built) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_job_without_a_builder_says_what_to_call():
    with pytest.raises(tg.UsageError, match="job 'job' has no task builder: call set_task_builder before start"):
        tg.Job("job", num_tasks=1).start()


@pytest.mark.parametrize("builder", [None, 5, "Task"])
def test_what_cannot_build_is_no_builder(builder):
    with pytest.raises(tg.UsageError, match="is neither callable nor has a build method"):
        tg.Job("job", num_tasks=1).set_task_builder(builder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_tasks": 0}, r"num_tasks=0 is out of bounds"),
        ({"num_tasks": 2.0}, r"num_tasks=2.0 is not an integer"),
        ({"num_tasks": True}, r"num_tasks=True is not an integer"),
        ({"name": "no name"}, r"name='no name' is not a plain name"),
        ({"name": None}, r"name=None: a job has to have one"),
        ({"num_tasks": None}, r"num_tasks=None: a job has to have one"),
        ({"etcd": 5}, r"etcd=5 is neither"),
        ({"name": ""}, r"name='' is not a plain name"),
        ({"name": "../etc"}, r"name='../etc' is not a plain name"),
        ({"epochs": 0}, r"epochs=0 is out of bounds"),
        ({"backups": -1}, r"backups=-1 is out of bounds"),
        ({"placement": "near"}, r"placement='near' is none of buddy, dedicated"),
        ({"seed": -1}, r"seed=-1 is out of bounds"),
        ({"bakups": 1}, r"bakups=1: Job has no option of that name"),
        ({"etcd": "nowhere"}, r"etcd='nowhere' is not an endpoint"),
    ],
)
def test_a_mistake_of_configuration_names_option_and_value(options, said):
    with pytest.raises(tg.UsageError, match=said):
        tg.Job(**{"name": "job", "num_tasks": 1, **options})


def test_options_come_from_the_environment_and_arguments_rule(monkeypatch):
    monkeypatch.setenv("TASKGRAPH_BACKUPS", "3")
    monkeypatch.setenv("TASKGRAPH_SEED", "4")
    config = tg.Job("job", num_tasks=1, seed=5).config
    assert (config.backups, config.seed) == (3, 5)


def test_a_misspelt_variable_is_refused(monkeypatch):
    monkeypatch.setenv("TASKGRAPH_BAKUPS", "3")
    with pytest.raises(tg.UsageError, match="TASKGRAPH_BAKUPS is not an option"):
        tg.Job("job", num_tasks=1)


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_linkage_has_a_name(name):
    with pytest.raises(tg.UsageError, match="is not a name: give a non-empty str"):
        tg.Job("job", num_tasks=1).add_linkage(name, lambda task, num, epoch: ())


@pytest.mark.parametrize("topology", [tg.topology.Ring, 3, None])
def test_what_has_no_linkages_is_no_topology(topology):
    with pytest.raises(tg.UsageError, match="is no topology: give an object"):
        tg.Job("x", 1).add_topology(topology)


def test_a_linkage_is_callable():
    with pytest.raises(tg.UsageError, match=r"linkage 'up': \[0\] is not callable"):
        tg.Job("job", num_tasks=1).add_linkage("up", [0])


def test_a_linkage_is_added_once():
    job = tg.Job("job", num_tasks=3)
    job.add_topology(tg.topology.Tree(fanout=2))
    with pytest.raises(tg.UsageError, match="linkage 'parents' was added twice"):
        job.add_linkage("parents", lambda task, num, epoch: ())


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (0, "ranks=0 is out of bounds"),
        (-1, "ranks=-1 is out of bounds"),
        (True, "ranks=True is out of bounds"),
        (1.5, r"ranks=1\.5 is not an integer"),
        ("2", "ranks='2' is not an integer"),
        (None, "ranks=None is not an integer"),
    ],
)
def test_a_job_runs_on_one_rank_at_least(ranks, said):
    with pytest.raises(tg.UsageError, match=said):
        tg.testing.run(job_of(idle), ranks=ranks)


def test_any_integer_is_a_number_of_ranks():
    assert tg.testing.run(job_of(idle), ranks=np.int64(2)) == 0


@pytest.mark.parametrize(("ranks", "backups", "has"), [(2, 2, "only 1"), (1, 2, "none")])
def test_too_few_ranks_for_the_backups_are_a_warning_that_says_how_many_there_are(caplog, ranks, backups, has):
    lay_out(job_of(idle, backups=backups).config, Site(0, "r", ("a", "b")[:ranks], ("m",) * ranks))
    assert f"there are too few ranks for backups={backups}: some task has {has}" in caplog.text


def test_in_one_process_nobody_expects_backups(caplog):
    assert job_of(idle, backups=1).start() == 0
    assert caplog.text == ""


def test_importing_the_package_does_not_start_mpi(mpirun):
    done = mpirun.run(
        """
        import sys
        import taskgraph
        assert "mpi4py.MPI" not in sys.modules
        assert "taskgraph._native.wire" not in sys.modules
        """,
        ranks=1,
    )
    assert done.status == 0, done
    assert "mpi4py.MPI" not in sys.modules
