"""A launcher that is killed while its job starts: no rank lives on, and the next job removes what MPI had made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kept_machine import until

from taskgraph.backends.launcher import LeftFile
from taskgraph.backends.processes import Process, alive, kill
from taskgraph.run.host.before_keeper import starting
from taskgraph.run.host.directory import machine
from taskgraph.run.host.files import write_process
from taskgraph.run.host.forgotten import remove_forgotten
from taskgraph.testing.leftovers import shared_by

HALF_STARTED = """
    import os, signal, sys
    import taskgraph as tg
    job = tg.Job("halfway", 2, epochs=1)
    job.set_task_builder(lambda task_id: None)
    if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        print("held", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    print("starting", flush=True)
    sys.exit(job.start())
"""
LOSES_ONE = """
    import os, signal, sys
    import taskgraph as tg
    from taskgraph.backends.launcher import own_segments
    from taskgraph.backends.mpi import open_communicator
    from taskgraph.run.rank import rank as steps
    job = tg.Job("halfway", 3, epochs=1)
    job.set_task_builder(lambda task_id: None)
    def dies(*what):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        setattr(steps, sys.argv[1], dies)
        if sys.argv[1] == "run_rank":  # in MPI_Init's wake; within `meet` it would leave a note for the next job
            open_communicator()
            dies()
    status = job.start()
    print(status, own_segments(os.environ), flush=True)
    sys.exit(status)
"""
WHOLE = """
    import taskgraph as tg
    class Idle(tg.Task):
        def set_epoch(self, ctx, epoch):
            ctx.compose(lambda ins, outs: None)
    job = tg.Job("whole", 1, epochs=1)
    job.set_task_builder(lambda task_id: Idle())
    assert job.start() == 0
"""


def test_a_rank_in_the_start_of_mpi_dies_with_its_launcher_and_the_next_job_removes_what_is_left(mpirun):
    job = mpirun.start(HALF_STARTED, ranks=2)
    job.wait_for_line("held")
    job.wait_for_line("starting")
    ranks = {rank: Process.of(pid) for rank, pid in job.ranks().items()}
    until(lambda: any("sm_segment" in name for name in shared_by(job.marker)), "MPI has made its shared memory")
    job.kill()
    until(lambda: not alive(ranks[0]), "the rank in MPI_Init is gone")
    kill(ranks[1])  # stopped before it came to start: nobody's but the test's
    assert mpirun.run(WHOLE, ranks=1).status == 0
    assert job.finish().status == -signal.SIGKILL  # fails where anything is left


@pytest.mark.parametrize("step", ["run_rank", "prepare_host", "find_etcd", "look", "begin"])
def test_a_rank_that_is_lost_while_the_job_starts_is_named_once_and_the_others_end(mpirun, step):
    """Without MPI_Finalize, which would wait for it now and then. Segments go first: the launcher may end next.

    It does at the first status that is not 0, so there may be one line or two.
    """
    done = mpirun.run(LOSES_ONE, ranks=3, args=[step], ulfm=True)
    assert set(done.stdout.splitlines()) == {"1 []"}, done
    assert done.stderr.count("the job could not start: MPI reports the loss of rank 1") == 1, done
    assert "Traceback" not in done.stderr, done
    assert done.status == 1, done


@pytest.fixture
def dead() -> Process:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    named = Process.of(process.pid)
    assert named is not None
    process.communicate()
    return named


def leave_note(base: Path, rank: Process, launcher: Process, where: str, session: Path) -> Path:
    session.mkdir(mode=0o700)
    note = base / f"taskgraph-{os.geteuid()}.starting.{rank.pid}"
    write_process(note, rank, json.dumps([where, [launcher], [LeftFile.of(session)]]))
    return note


def test_a_note_lies_there_only_while_a_rank_starts(tmp_path: Path) -> None:
    with starting({}, tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [f"taskgraph-{os.geteuid()}.starting.{os.getpid()}"]
        assert remove_forgotten(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_rank_of_a_dead_launcher_noted_is_removed_with_the_note(tmp_path: Path, dead: Process) -> None:
    note = leave_note(tmp_path, dead, dead, machine(), tmp_path / "ompi.77")
    assert remove_forgotten(tmp_path) == [note]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", ["rank lives", "launcher lives", "other machine"])
def test_what_may_be_in_use_is_left_alone(tmp_path: Path, dead: Process, kept: str) -> None:
    me = Process.current()
    session = tmp_path / "ompi.77"
    leave_note(
        tmp_path,
        me if kept == "rank lives" else dead,
        me if kept == "launcher lives" else dead,
        "another boot" if kept == "other machine" else machine(),
        session,
    )
    assert remove_forgotten(tmp_path) == []
    assert session.exists()
