"""Under a launch line that survives nothing the job says so, once, with the line to use instead."""

from __future__ import annotations

import logging

import pytest

from taskgraph.run.start.mortality import better, survives, warn_of_mortality

ULFM = {"OMPI_MCA_mpi_ft_enable": "1", "OMPI_COMM_WORLD_RANK": "0"}


def test_only_ulfm_survives():
    assert survives(ULFM)
    assert not survives({"OMPI_COMM_WORLD_RANK": "0"})
    assert not survives({"OMPI_MCA_mpi_ft_enable": "false"})


def test_the_line_to_use_instead_has_the_program_as_it_was_started():
    assert (
        better(4, ["/usr/bin/python3", "-X", "dev", "my driver.py", "--n", "3"])
        == "mpirun --with-ft ulfm -n 4 python3 -X dev 'my driver.py' --n 3"
    )


@pytest.mark.parametrize(
    ("ranks", "environ", "words"),
    [
        (4, ULFM, None),
        (1, {"OMPI_COMM_WORLD_RANK": "0"}, None),
        (4, {"PMI_RANK": "0", "TASKGRAPH_SUPERVISED": "an attempt"}, None),
        (4, {"OMPI_COMM_WORLD_RANK": "0"}, "under this line it goes on: mpirun --with-ft ulfm -n 4 python d.py"),
        (4, {"PMI_RANK": "0"}, "under this line of Open MPI 5 it goes on: mpirun --with-ft ulfm -n 4 python d.py"),
    ],
)
def test_the_warning_comes_where_it_is_true(caplog, ranks, environ, words):
    with caplog.at_level(logging.WARNING):
        warn_of_mortality(ranks, environ, ["python", "d.py"])
    assert [words in record.getMessage() for record in caplog.records] == ([True] if words else [])


def test_a_job_under_plain_mpirun_says_so_once(mpirun):
    program = """
        import sys, taskgraph as tg
        class Idle(tg.Task):
            def init(self, framework): pass
            def set_epoch(self, ctx, epoch): pass
        job = tg.Job("mortal", 2, epochs=1, progress="off")
        job.set_task_builder(lambda task: Idle())
        sys.exit(job.start())
    """
    assert mpirun.run(program, ranks=2).stderr.count("mpirun --with-ft ulfm -n 2 python") == 1
    assert "--with-ft" not in mpirun.run(program, ranks=2, ulfm=True).stderr
