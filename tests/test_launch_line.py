"""Which launcher ``taskgraph run`` takes, and what it tells it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from taskgraph._native.mpi import Mpi, built_with
from taskgraph.backends.mpirun import Launcher, Where, find_launcher, launch_line
from taskgraph.backends.slurm import expand_counts
from taskgraph.cli.driver import driver_at
from taskgraph.cli.main import main
from taskgraph.cli.run import _Launch, program
from taskgraph.errors import UsageError

OPEN_MPI_5 = Launcher("/mpi/mpirun", Mpi("Open MPI", "5.0.11"))
OPEN_MPI_4 = Launcher("/mpi/mpirun", Mpi("Open MPI", "4.1.4"))
HYDRA = Launcher("/mpi/mpiexec", Mpi("MPICH", "4.3"))

SAYS = {
    "open5": "mpirun (Open MPI) 5.0.3",
    "open4": "mpirun.openmpi (OpenRTE) 4.1.4",
    "hydra": "HYDRA build details:\n    Version:                                 4.3.1",
    "intel": "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230306",
    "other": "a program of another kind",
}


@pytest.fixture
def no_launcher_here(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


def installed(directory: Path, kind: str, name: str = "mpirun") -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{SAYS[kind]}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("kind", "built"),
    [
        ("open5", Mpi("Open MPI", "5.0.11")),
        ("open4", Mpi("Open MPI", "4.0.1")),
        ("hydra", Mpi("MPICH", "5.0.2")),
        ("hydra", Mpi("MVAPICH", "3.0")),
        ("intel", Mpi("Intel MPI", "2021.1")),
    ],
)
@pytest.mark.usefixtures("no_launcher_here")
def test_the_launcher_is_that_of_the_mpi_compiled_for_though_others_come_first(tmp_path, kind, built):
    others = [installed(tmp_path / other, other) for other in SAYS if other != kind]
    own = installed(tmp_path / kind, kind)
    environ = {"PATH": os.pathsep.join([*(str(path.parent) for path in others), str(own.parent), os.environ["PATH"]])}
    assert find_launcher(built, environ).path == str(own)


@pytest.mark.usefixtures("no_launcher_here")
def test_where_there_is_none_the_message_names_what_there_is(tmp_path):
    path = installed(tmp_path / "open4", "open4")
    with pytest.raises(UsageError, match=r"no mpirun of Open MPI 5\.0\.11.*found: .*open4/mpirun \(Open MPI 4\.1\.4\)"):
        find_launcher(Mpi("Open MPI", "5.0.11"), {"PATH": f"{path.parent}{os.pathsep}{os.defpath}"})


def test_the_real_one_is_found():
    assert find_launcher(built_with(), os.environ).mpi.name


def test_only_open_mpi_5_survives_ranks_and_is_told_to():
    lines = [
        launch_line(launcher, Where(ranks=2, cores=4), [], ["p"], {}) for launcher in (OPEN_MPI_5, OPEN_MPI_4, HYDRA)
    ]
    assert ["ulfm" in line for line in lines] == [True, False, False]
    assert lines[2] == ["/mpi/mpiexec", "-n", "2", "p"]


def test_ranks_are_not_bound_where_cores_are_few_and_the_user_said_nothing():
    assert "none" not in launch_line(OPEN_MPI_5, Where(ranks=4, cores=4), [], ["p"], {})
    few = launch_line(OPEN_MPI_5, Where(ranks=5, cores=4), [], ["p"], {})
    assert few[few.index("--bind-to") + 1] == "none"
    assert "--oversubscribe" in few
    assert "--oversubscribe" in launch_line(OPEN_MPI_5, Where(ranks=2, cores=4, oversubscribed=True), [], ["p"], {})
    own = launch_line(OPEN_MPI_5, Where(ranks=5, cores=4), ["--bind-to", "core", "--map-by", "ppr:2:node"], ["p"], {})
    assert own.count("--bind-to") == 1
    assert "--oversubscribe" not in own


def test_options_of_the_job_reach_ranks_on_other_hosts_by_name_and_never_by_value():
    environ = {"TASKGRAPH_ETCD_PASSWORD": "secret", "PYTHONPATH": "/lib", "HOME": "/root", "OMP_NUM_THREADS": "1"}
    line = launch_line(OPEN_MPI_5, Where(ranks=2, cores=4), [], ["p"], environ)
    assert [word for at, word in enumerate(line) if line[at - 1] == "-x"] == [
        "OMP_NUM_THREADS", "PYTHONPATH", "TASKGRAPH_ETCD_PASSWORD",
    ]  # fmt: skip
    assert "secret" not in " ".join(line)


def test_on_several_hosts_it_is_the_ranks_of_one_that_count():
    assert "none" not in launch_line(OPEN_MPI_5, Where(ranks=8, cores=4, hosts=2), [], ["p"], {})
    assert "none" in launch_line(OPEN_MPI_5, Where(ranks=9, cores=4, hosts=2), [], ["p"], {})


def test_a_silent_host_is_not_the_launchers_to_notice():
    line = launch_line(OPEN_MPI_5, Where(ranks=4, cores=4, hosts=2, in_slurm=True), [], ["p"], {})
    assert int(line[line.index("oob_tcp_keepalive_time") + 1]) > 86400
    assert line[line.index("plm_slurm_args") + 1] == "--no-kill"


@pytest.mark.parametrize(("launcher", "flag"), [(OPEN_MPI_5, "--host"), (OPEN_MPI_4, "--host"), (HYDRA, "-hosts")])
def test_after_a_loss_only_the_hosts_that_live_are_named(launcher, flag):
    line = launch_line(launcher, Where(ranks=3, cores=4, hosts=2, slots={"n1": 2, "n3": 1}), [], ["p"], {})
    assert line[line.index(flag) + 1] == "n1:2,n3:1"


@pytest.mark.parametrize(("text", "counts"), [("2(x3)", [2, 2, 2]), ("2(x2),1", [2, 2, 1]), ("4", [4])])
def test_what_slurm_writes_for_a_number_for_each_host_is_read(text, counts):
    assert expand_counts(text) == counts


def test_what_it_would_not_write_is_refused():
    with pytest.raises(UsageError, match="SLURM_TASKS_PER_NODE='2x3'"):
        expand_counts("2x3")


@pytest.mark.parametrize(
    ("words", "options", "command"),
    [
        (["d.py", "-n", "3"], [], [sys.executable, "d.py", "-n", "3"]),
        (["--map-by", "ppr:1:node", "d.py"], ["--map-by", "ppr:1:node"], [sys.executable, "d.py"]),
        (["--quiet", "-m", "mod", "x.py"], ["--quiet"], [sys.executable, "-m", "mod", "x.py"]),
        (["--", "sh", "d.py"], [], ["sh", "d.py"]),
        (["--quiet"], ["--quiet"], []),
    ],
)
def test_the_driver_begins_where_it_is_seen_to(words, options, command):
    at = driver_at(words, _Launch.marks)
    assert (words[:at], program(words[at:])) == (options, command)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-n", "3", "d.py", "-n", "7"], "-n 3 {python} d.py -n 7"),
        (["-np", "3", "--quiet", "d.py"], "-n 3 --quiet {python} d.py"),
        (["--map-by", "slot", "-n", "2", "d.py"], "-n 2 --map-by slot {python} d.py"),
    ],
)
def test_options_of_the_launcher_are_passed_on_and_those_of_the_driver_left_alone(words, expected):
    done = CliRunner().invoke(main, ["run", "--dry-run", *words])
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith(expected.format(python=sys.executable))


def test_without_a_driver_the_message_says_what_to_write():
    done = CliRunner().invoke(main, ["run", "-n", "3"])
    assert done.exit_code != 0
    assert "name a Python file" in done.output
