"""The harness that runs MPI jobs: nothing that it starts outlives the test, however it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from taskgraph.errors import UsageError
from taskgraph.testing import spmd
from taskgraph.testing.leftovers import MARKER, end_all, processes
from taskgraph.testing.mpirun import command, environment

# A job of taskgraph's sets the variable itself (taskgraph.backends.ofi): it spares a start of MPI a second.
HELLO = """
    import os, sys
    os.environ["OMPI_MCA_btl"] = "^ofi"
    from mpi4py import MPI
    print(f"rank {MPI.COMM_WORLD.rank} of {MPI.COMM_WORLD.size} got {sys.argv[1:]}", flush=True)
"""

HANG = """
    import os, time
    os.environ["OMPI_MCA_btl"] = "^ofi"
    from mpi4py import MPI
    print(f"rank {MPI.COMM_WORLD.rank} is there", flush=True)
    while True:
        time.sleep(60)
"""

# A process of its own session that knows nothing of the job but the marker, and holds no output of it.
DAEMON = """
    import os, subprocess
    os.environ["OMPI_MCA_btl"] = "^ofi"
    from mpi4py import MPI
    if MPI.COMM_WORLD.rank == 0:
        daemon = subprocess.Popen(
            ["sleep", "600"],
            env={name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "PRTE_"))},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        print(f"daemon {daemon.pid}")
"""


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_rank_runs_with_the_arguments_given(mpirun, ranks):
    done = mpirun.run(HELLO, ranks=ranks, args=["--epochs", 3])
    assert done.status == 0, done
    assert sorted(done.stdout.splitlines()) == [f"rank {r} of {ranks} got ['--epochs', '3']" for r in range(ranks)]
    assert done.seconds > 0


def test_a_script_is_run_where_it_lies(mpirun, tmp_path):
    script = tmp_path / "where.py"
    script.write_text("import os; print(__file__, os.getcwd())")
    done = mpirun.run(script, ranks=1, cwd=tmp_path)
    assert done.stdout == f"{script} {tmp_path}\n"


def test_a_hanging_job_is_ended_and_what_it_printed_is_in_the_error():
    with spmd.start(HANG, ranks=2) as job:
        job.wait_for_line("rank 1 is there")
        assert len(processes(job.marker)) >= 3
        with pytest.raises(spmd.JobHung, match=r"did not end in 0\.1 s[\s\S]*threads wait in[\s\S]*rank 1 is there"):
            job.finish(timeout_s=0.1)
    assert job.leftovers() == []


def test_run_ends_the_job_at_its_timeout():
    with pytest.raises(spmd.JobHung, match="did not end in 1 s"):
        spmd.run(HANG, ranks=2, timeout_s=1)


def test_a_job_with_a_stopped_launcher_and_a_stopped_rank_is_ended():
    with spmd.start(HANG, ranks=2) as job:
        job.wait_for_line("rank 0 is there")
        job.wait_for_line("rank 1 is there")
        os.kill(job.ranks()[1], signal.SIGSTOP)
        job.kill(signal.SIGSTOP)
    assert job.leftovers() == []


def test_an_exception_in_the_test_ends_the_job():
    def fails() -> None:
        with spmd.start(HANG, ranks=2) as job:
            found.append(job)
            job.wait_for_line("rank 0 is there")
            raise KeyError("the test went wrong")

    found: list[spmd.Running] = []
    with pytest.raises(KeyError):
        fails()
    assert found[0].leftovers() == []


def test_killing_the_launcher_leaves_nothing_once_the_job_is_ended():
    with spmd.start(HANG, ranks=2) as job:
        job.wait_for_line("rank 0 is there")
        job.wait_for_line("rank 1 is there")
        job.kill(signal.SIGKILL)
        with pytest.raises(spmd.LeftBehind) as caught:
            job.finish(settle_s=2)
    assert caught.value.left
    assert job.leftovers() == []
    assert not job.tmp.exists()


def test_ranks_are_told_from_what_they_start(mpirun):
    job = mpirun.start(
        HANG.replace("import os, time", "import os, subprocess, time; subprocess.Popen(['sleep', '600'])"), ranks=2
    )
    job.wait_for_line("rank 0 is there")
    job.wait_for_line("rank 1 is there")
    assert sorted(job.ranks()) == [0, 1]
    assert all("program.py" in one.command for one in processes(job.marker) if one.pid in job.ranks().values())
    job.end()


def test_a_daemon_that_outlives_its_job_is_named_and_ended():
    with spmd.start(DAEMON, ranks=2) as job, pytest.raises(spmd.LeftBehind, match="sleep 600") as caught:
        job.finish(settle_s=0.5)
    assert len(caught.value.left) == 1
    assert processes(job.marker) == []


def test_a_file_that_a_job_forgets_is_named_and_removed():
    code = "import pathlib, os; pathlib.Path('/dev/shm', 'forgotten-' + os.environ['SPMD_JOB']).touch()"
    with spmd.start(code, ranks=1) as job:
        forgotten = Path("/dev/shm", f"forgotten-{job.marker}")
        with pytest.raises(spmd.LeftBehind, match=str(forgotten)):
            job.finish(settle_s=0.2)
    assert not forgotten.exists()


def test_a_file_of_another_job_that_runs_is_left_alone():
    code = HANG.replace(
        "import os, time",
        "import os, pathlib, time; pathlib.Path('/dev/shm', 'mine-' + os.environ['SPMD_JOB']).mkdir()",
    )
    with spmd.start(HELLO, ranks=1) as done, spmd.start(code, ranks=1) as runs:
        mine = Path("/dev/shm", f"mine-{runs.marker}")
        runs.wait_for_line("rank 0 is there")
        done.finish()
        assert mine.exists()
    assert not mine.exists()


def test_a_temporary_file_that_a_job_forgets_is_named():
    with spmd.start("import tempfile; tempfile.mkdtemp(prefix='mine-')", ranks=1) as job:
        with pytest.raises(spmd.LeftBehind, match="/mine-"):
            job.finish(settle_s=0.2)


def test_a_line_that_never_comes_is_an_error_when_the_job_ends_without_it():
    with spmd.start(HELLO, ranks=1) as job:
        with pytest.raises(
            spmd.JobHung, match=r"no line with 'no such' before the job ended with status 0[\s\S]*rank 0"
        ):
            job.wait_for_line("no such")


def test_the_status_of_a_failing_program_is_the_launchers(mpirun):
    done = mpirun.run("import sys; sys.exit('it went wrong')", ranks=1)
    assert done.status == 1
    assert "it went wrong" in done.stderr


def test_nothing_of_a_surrounding_job_reaches_the_ranks(mpirun, monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PRTE_LAUNCHED", "SLURM_JOB_ID", "TASKGRAPH_BACKUPS"):
        monkeypatch.setenv(name, "outside")
    code = "import os; print(sorted(n for n, v in os.environ.items() if v in ('given', 'outside')))"
    assert mpirun.run(code, ranks=1, env={"TASKGRAPH_SEED": "given"}).stdout == "['TASKGRAPH_SEED']\n"


def test_what_is_not_of_mpi_stays_in_the_environment():
    kept = environment({"PYTHONPATH": "/p", "OMPI_MCA_x": "1", "OMP_NUM_THREADS": "4", "TMPDIR": "/x"}, Path("/t"))
    assert kept == {"PYTHONPATH": "/p", "OMP_NUM_THREADS": "4", "TMPDIR": "/t"}


def test_lines_of_many_ranks_come_whole(mpirun, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    done = mpirun.run("for n in range(200): print('some words', n, 'of a line', flush=True)", ranks=4)
    assert sorted(done.stdout.splitlines()) == sorted(f"some words {n} of a line" for n in range(200) for _ in range(4))


def test_root_is_allowed_only_for_root(monkeypatch):
    monkeypatch.setattr("taskgraph.testing.mpirun.is_open_mpi", lambda mpirun: True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "--allow-run-as-root" not in command(2, ["x.py"])
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "--allow-run-as-root" in command(2, ["x.py"])


def test_flags_of_open_mpi_are_for_open_mpi_only(monkeypatch):
    monkeypatch.setattr("taskgraph.testing.mpirun.is_open_mpi", lambda mpirun: False)
    assert not [word for word in command(2, ["x.py"]) if word.startswith("--")]
    with pytest.raises(UsageError, match="ulfm=True needs Open MPI 5"):
        command(2, ["x.py"], ulfm=True)


def test_no_ranks_is_refused():
    with pytest.raises(UsageError, match="ranks=0"):
        spmd.start(HELLO, ranks=0)


def test_the_marker_is_no_option_of_taskgraph():
    assert not MARKER.startswith("TASKGRAPH_")


def test_ending_a_job_that_is_not_there_is_nothing():
    end_all("no such job")
