"""The private directory of a host, who is in it, and what becomes of forgotten ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskgraph.backends.launcher import LeftFile
from taskgraph.backends.processes import Process
from taskgraph.errors import UsageError
from taskgraph.run.host import directory as hostdir
from taskgraph.run.host.directory import SHARED_MEMORY, HostDir
from taskgraph.run.host.files import lock, read_process, write_process
from taskgraph.run.host.forgotten import remove_dead_siblings, remove_forgotten
from taskgraph.run.host.roster import add_rank, close_roster, leave, read_roster

RUN = "0123456789abcdef"


@pytest.fixture
def dead() -> Process:
    """A process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = Process.of(child.pid)
        child.kill()
    assert process is not None
    return process


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[HostDir]:
    directory = HostDir.create("job", RUN, 0, base=tmp_path)
    yield directory
    directory.remove()


def test_it_is_private_and_named_after_user_job_run_and_host(directory: HostDir) -> None:
    assert directory.path.name == f"taskgraph-{os.geteuid()}-job-01234567-0"
    assert directory.path.stat().st_mode & 0o777 == 0o700


def test_it_lies_in_shared_memory() -> None:
    directory = HostDir.create("job", os.urandom(8).hex(), 0)
    try:
        assert directory.path.parent == SHARED_MEMORY
    finally:
        directory.remove()


def test_without_shared_memory_it_lies_with_the_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostdir, "SHARED_MEMORY", tmp_path / "no such")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert HostDir.create("job", RUN, 0).path.parent == tmp_path


def test_one_that_is_there_already_is_refused_with_the_way_out(directory: HostDir, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="remove it"):
        HostDir.create("job", RUN, 0, base=tmp_path)


def test_a_base_that_cannot_be_written_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="TMPDIR"):
        HostDir.create("job", RUN, 0, base=tmp_path / "missing")


def test_a_link_and_a_directory_open_to_others_are_not_taken(directory: HostDir, tmp_path: Path) -> None:
    os.symlink(directory.path, tmp_path / "link")
    (tmp_path / "open").mkdir(mode=0o755)
    for name in ("link", "open", "missing"):
        with pytest.raises(UsageError, match=name):
            HostDir.open(tmp_path / name)


def test_removing_it_follows_no_link_out_of_it(directory: HostDir, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    os.symlink(tmp_path / "outside", directory.path / "link")
    directory.remove()
    directory.remove()
    assert not directory.path.exists()
    assert (tmp_path / "outside" / "precious").exists()


def test_the_data_of_etcd_lie_beside_it_and_elsewhere_where_room_is_scarce(
    directory: HostDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert directory.etcd_data() == tmp_path / f"taskgraph-{os.geteuid()}-job-01234567-etcd"
    monkeypatch.setattr(hostdir, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(hostdir, "_ETCD_BYTES", 2**62)
    monkeypatch.setattr(tempfile, "tempdir", "/roomy")
    assert directory.etcd_data().parent == Path("/roomy")


def test_ranks_are_listed_with_their_files_and_marked_when_they_leave(directory: HostDir) -> None:
    me, files = Process.current(), (LeftFile("/dev/shm/sm_segment.0", 1, 2),)
    add_rank(directory, 0, me, files)
    add_rank(directory, 1, me)
    leave(directory, 1)
    leave(directory, 1)
    first, second = sorted(read_roster(directory), key=lambda entry: entry.index)
    assert (first.index, first.process, first.files, first.left) == (0, me, files, False)
    assert (second.index, second.left) == (1, True)


def test_the_roster_can_be_read_at_any_moment_while_ranks_leave(directory: HostDir) -> None:
    for index in range(200):
        add_rank(directory, index, Process.current())

    def all_leave() -> None:
        for index in range(200):
            leave(directory, index)

    leaving = threading.Thread(target=all_leave)
    leaving.start()
    while leaving.is_alive():
        read_roster(directory)
    leaving.join()
    assert [entry.left for entry in read_roster(directory)] == [True] * 200


def test_no_rank_is_added_to_a_roster_that_is_closed(directory: HostDir) -> None:
    add_rank(directory, 0, Process.current())
    assert [entry.index for entry in close_roster(directory)] == [0]
    assert [entry.index for entry in close_roster(directory)] == [0]
    with pytest.raises(UsageError, match="ended while it was starting"):
        add_rank(directory, 1, Process.current())


def test_a_rank_that_is_added_rings_the_bell(directory: HostDir) -> None:
    bell = os.open(directory.bell, os.O_RDWR | os.O_NONBLOCK)
    add_rank(directory, 0, Process.current())
    assert os.read(bell, 10) == b"\0"
    os.close(bell)


def test_a_rank_that_comes_too_late_is_told_that_the_job_was_ended(directory: HostDir) -> None:
    directory.remove()
    with pytest.raises(UsageError, match="ended while it was starting"):
        add_rank(directory, 0, Process.current())
    leave(directory, 0)


def test_a_lock_is_held_by_one_until_it_is_closed(tmp_path: Path) -> None:
    held = lock(tmp_path / "lock")
    assert held is not None
    assert lock(tmp_path / "lock") is None
    os.close(held)
    again = lock(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_a_file_that_names_no_process_is_read_as_none(tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("not a process")
    assert read_process(tmp_path / "odd") is None
    assert read_process(tmp_path / "missing") is None


def test_a_run_of_which_nothing_lives_is_removed_whole(tmp_path: Path, dead: Process) -> None:
    directories = [HostDir.create("job", RUN, host, base=tmp_path) for host in (0, 1)]
    for directory in directories:
        write_process(directory.owner, dead, hostdir.machine())
        add_rank(directory, 0, dead)
    directories[0].etcd_data().mkdir(mode=0o700)
    write_process(directories[0].etcd_data() / "owner", dead, hostdir.machine())
    assert len(remove_forgotten(tmp_path)) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("mode", [0o700, 0o755])  # the second is that of a daemon on a host other than mpirun's
def test_what_mpi_made_for_a_forgotten_run_goes_with_it(tmp_path: Path, dead: Process, mode: int, closed: bool) -> None:
    session, segment, replaced = tmp_path / "ompi.77", tmp_path / "sm_segment.0", tmp_path / "sm_segment.1"
    session.mkdir()
    session.chmod(mode)
    for path in (segment, replaced, session / "file"):
        path.write_bytes(b"")
    files = [file for path in (session, segment, replaced) if (file := LeftFile.of(path))]
    replaced.rename(tmp_path / "kept")
    replaced.write_bytes(b"")
    directory = HostDir.create("job", RUN, 0, base=tmp_path)
    write_process(directory.owner, dead, hostdir.machine())
    add_rank(directory, 0, dead, files)
    if closed:  # its keeper was killed while it cleaned up
        close_roster(directory)
    remove_forgotten(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "sm_segment.1"}


@pytest.mark.parametrize("alive_one", ["owner", "keeper", "rank", "sibling"])
def test_a_run_of_which_anything_lives_is_kept(tmp_path: Path, dead: Process, alive_one: str) -> None:
    directory = HostDir.create("job", RUN, 0, base=tmp_path)
    me = Process.current()
    write_process(directory.owner, me if alive_one == "owner" else dead, hostdir.machine())
    write_process(directory.keeper, me if alive_one == "keeper" else dead)
    add_rank(directory, 0, me if alive_one == "rank" else dead)
    if alive_one == "sibling":
        HostDir.create("job", RUN, 1, base=tmp_path)
    assert remove_forgotten(tmp_path) == []
    assert directory.exists()


def test_what_another_machine_made_is_kept(tmp_path: Path, dead: Process) -> None:
    directory = HostDir.create("job", RUN, 0, base=tmp_path)
    write_process(directory.owner, dead, "another boot")
    assert remove_forgotten(tmp_path) == []


def test_a_directory_in_the_making_is_kept(tmp_path: Path) -> None:
    (tmp_path / f"taskgraph-{os.geteuid()}-job-01234567-0").mkdir(mode=0o700)
    assert remove_forgotten(tmp_path) == []


def test_dead_hosts_of_the_same_run_are_removed_by_one_that_lives(tmp_path: Path, dead: Process) -> None:
    mine, lost, living = (HostDir.create("job", RUN, host, base=tmp_path) for host in range(3))
    other = HostDir.create("job", "fedcba9876543210", 0, base=tmp_path)
    for directory in (mine, lost, other):
        write_process(directory.owner, dead, hostdir.machine())
    remove_dead_siblings(mine)
    assert [directory.exists() for directory in (mine, lost, living, other)] == [True, False, True, True]
