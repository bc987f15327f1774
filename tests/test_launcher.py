"""Who started this process is read from the environment and from the processes above it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskgraph.backends.launcher import LeftFile, detect, launchers, mapped_files, mpi_files, terminal
from taskgraph.backends.processes import Process

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_RANK": "3",
}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "5", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environ", "launcher", "size"),
    [
        (OPEN_MPI, "Open MPI", 8),
        (OPEN_MPI | BATCH, "Open MPI", 8),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "PMI", 2),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, "MPICH or Intel MPI", 2),
        (BATCH | {"PMIX_RANK": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2"}, "srun --mpi=pmix", 6),
        ({"PMIX_RANK": "5"}, "PMIx", None),
    ],
)
def test_the_variables_of_each_launcher_are_known(environ: dict[str, str], launcher: str, size: int | None) -> None:
    found = detect(environ)
    assert found is not None
    assert (found.launcher, found.size) == (launcher, size)


@pytest.mark.parametrize("environ", [{}, BATCH, {"PMI_RANK": "0"}, {"PMI_RANK": "x", "PMI_SIZE": "2"}])
def test_a_plain_python_is_no_rank_in_a_batch_script_either(environ: dict[str, str]) -> None:
    assert detect(environ) is None


def run_under(names: list[str], tmp_path: Path) -> subprocess.Popen[bytes]:
    """Start one process under another, each under the command name given, the last one printing its pid."""
    code = (
        "import os, sys, subprocess\n"
        "open('/proc/self/comm', 'w').write(sys.argv[1])\n"
        "rest = sys.argv[2:]\n"
        "if rest: subprocess.run([sys.executable, __file__, *rest])\n"
        "else: print(os.getpid(), flush=True); input()\n"
    )
    script = tmp_path / "chain.py"
    script.write_text(code)
    return subprocess.Popen([sys.executable, str(script), *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.fixture
def chain(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Process, list[int]]]:
    """The lowest process of a chain with the names asked for, and the pids above it, the nearest first."""
    with run_under(request.param, tmp_path) as top:
        assert top.stdout is not None
        lowest = Process.of(int(top.stdout.readline()))
        assert lowest is not None
        above = []
        pid = lowest.pid
        while pid != top.pid:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            above.append(pid)
        yield lowest, above
        assert top.stdin is not None
        top.stdin.close()  # the end of its input ends the lowest, and that each one above it


@pytest.mark.parametrize("chain", [["mpiexec.hydra", "hydra_pmi_proxy", "python"]], indirect=True)
def test_all_launcher_processes_in_a_row_are_found(chain: tuple[Process, list[int]]) -> None:
    rank, above = chain
    assert [process.pid for process in launchers(rank)] == above


@pytest.mark.parametrize("chain", [["prterun", "bash", "numactl", "python"]], indirect=True)
def test_tools_between_a_rank_and_its_launcher_are_skipped(chain: tuple[Process, list[int]]) -> None:
    rank, above = chain
    assert [process.pid for process in launchers(rank)] == above[-1:]


@pytest.mark.parametrize("chain", [["slurmstepd", "bash", "prterun", "python"]], indirect=True)
def test_what_is_above_the_launcher_does_not_belong_to_the_job(chain: tuple[Process, list[int]]) -> None:
    rank, above = chain
    assert [process.pid for process in launchers(rank)] == above[:1]


@pytest.mark.parametrize("chain", [["bash", "python"]], indirect=True)
def test_a_process_without_a_launcher_has_none(chain: tuple[Process, list[int]]) -> None:
    assert launchers(chain[0]) == ()


def test_the_directory_of_the_launcher_and_the_segments_in_shared_memory_are_named(tmp_path: Path) -> None:
    directory = tmp_path / "ompi.4135"
    directory.mkdir()
    segment, other = tmp_path / "sm_segment.vm.0.9260001.1", tmp_path / "users.dat"
    for path in (segment, other, directory / "sm_segment.x"):
        path.write_bytes(b"")
    mapped = [str(segment), str(other), str(directory / "sm_segment.x"), "/usr/lib/sm_segment.so"]
    found = mpi_files({"PMIX_SERVER_TMPDIR": str(directory), "TMPDIR": str(tmp_path)}, mapped)
    assert {left.path for left in found} == {str(directory), str(segment)}


def test_a_directory_that_is_not_the_launchers_own_is_not_named(tmp_path: Path) -> None:
    assert mpi_files({"PMIX_SERVER_TMPDIR": str(tmp_path)}, []) == ()


def test_a_later_file_of_the_same_name_is_another(tmp_path: Path) -> None:
    path = tmp_path / "sm_segment.0"
    path.write_bytes(b"")
    left = LeftFile.of(path)
    assert left is not None
    assert left.still_there()
    path.rename(tmp_path / "kept")
    path.write_bytes(b"")
    assert not left.still_there()


def test_the_mapped_files_of_this_process_and_of_another_are_known() -> None:
    assert any("python" in path or "libc" in path for path in mapped_files())
    assert mapped_files(Process(2**22 + 1, 0)) == frozenset()


def test_a_terminal_is_told_from_a_pipe() -> None:
    outer, inner = pty.openpty()
    try:
        for stderr, expected in ((inner, True), (subprocess.PIPE, False)):
            code = [sys.executable, "-c", "input()"]
            with subprocess.Popen(code, stdin=subprocess.PIPE, stderr=stderr) as child:
                process = Process.of(child.pid)
                assert process is not None
                assert terminal(process) is expected
                child.kill()
    finally:
        os.close(outer)
        os.close(inner)
    assert not terminal(Process(2**22 + 1, 0))
