"""What a host has of the launches before, taken over by the next: nobody writes to it any more, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskgraph.backends.commits import Commits
from taskgraph.backends.processes import Process, alive
from taskgraph.backends.slots import SlotDir
from taskgraph.plan.holdings import Known
from taskgraph.plan.relaunch import first_generation
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import write_atomically
from taskgraph.run.host.keeper_spec import KeeperSpec
from taskgraph.run.host.roster import add_rank
from taskgraph.run.host.supervised import Supervised
from taskgraph.run.start.inheritance import inherit

LINEAGE, OTHER = "0123456789abc", "fffffffffffff"


@pytest.fixture
def rank() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.communicate()


def launched(base: Path, attempt: int, *, series: str = LINEAGE, host: str = "n0") -> HostDir:
    """Return the directory of a host as a launch leaves it."""
    supervised = Supervised(attempt, series, base / "supervisor")
    directory = HostDir.create("job", supervised.run, int(host[1:]), base=base)
    spec = KeeperSpec(
        job="job",
        run=supervised.run,
        host=host,
        ranks=(0,),
        backups=0,
        placement="buddy",
        lease_s=3.0,
        abort_grace_s=1.0,
        supervised=supervised.encode(),
    )
    write_atomically(directory.spec, spec.encode())
    SlotDir.create(directory.slots, series)
    Commits.create(directory.commits, 1)
    return directory


def next_launch(base: Path, attempt: int = 1, host: str = "n0") -> tuple[HostDir, Supervised]:
    supervised = Supervised(attempt, LINEAGE, base / "supervisor")
    return HostDir.create("job", supervised.run, int(host[1:]), base=base), supervised


def test_the_ranks_that_are_left_are_killed_before_their_slots_are_taken(tmp_path: Path, rank: subprocess.Popen[bytes]):
    before = launched(tmp_path, 0)
    process = Process.of(rank.pid)
    assert process is not None
    add_rank(before, 0, process)
    directory, attempt = next_launch(tmp_path)
    assert inherit(directory, "n0", attempt) is not None
    assert not alive(process)
    assert directory.slots.exists()
    assert not before.exists()


def test_nothing_of_an_earlier_launch_may_be_written_any_more(tmp_path: Path):
    launched(tmp_path, 0)
    directory, attempt = next_launch(tmp_path)
    inherit(directory, "n0", attempt)
    slots = SlotDir.open(directory.slots)
    assert slots.floor == first_generation(1)
    assert not slots.admits(first_generation(1) - 1)


def test_what_commits_had_said_is_passed_on_also_over_a_launch_that_came_to_nothing(tmp_path: Path):
    commits = Commits.open(launched(tmp_path, 0).commits)
    commits.line(0).heard(*Known(0, 7, 6))
    launched(tmp_path, 1)
    directory, attempt = next_launch(tmp_path, 2)
    found = inherit(directory, "n0", attempt)
    assert found is not None
    assert found.known == Known(0, 7, 6)
    assert [path.name for path in tmp_path.iterdir()] == [directory.path.name]


def test_what_is_of_another_run_or_another_host_is_left_alone(tmp_path: Path):
    others = [launched(tmp_path, 0, series=OTHER), launched(tmp_path, 0, host="n1")]
    directory, attempt = next_launch(tmp_path)
    assert inherit(directory, "n0", attempt) is None
    assert not directory.slots.exists()
    assert all(other.exists() for other in others)


def test_a_directory_that_cannot_be_read_is_left_alone(tmp_path: Path):
    broken = launched(tmp_path, 0)
    broken.spec.write_text("{")
    directory, attempt = next_launch(tmp_path)
    assert inherit(directory, "n0", attempt) is None
    assert broken.exists()


def test_an_option_that_no_supervisor_wrote_is_refused():
    for text in ("", "1:x:/tmp", "1:0123456789abc:relative", "99999:0123456789abc:/tmp"):
        with pytest.raises(ValueError, match="not for you to set"):
            Supervised.decode(text)
    assert Supervised.decode(f"3:{LINEAGE}:/dev/shm/x").encode() == f"3:{LINEAGE}:/dev/shm/x"
