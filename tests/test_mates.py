"""How one rank of a host sees others die, without the keeper: in a ring, each the next one that lives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from taskgraph.backends.processes import Process, alive
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.roster import add_rank, leave, read_roster
from taskgraph.run.rank.mates import Mates

LIMIT_S = 30.0


class Ring:
    """Four ranks of a host, of which the second, this process, watches the others."""

    def __init__(self, directory: HostDir) -> None:
        self.directory = directory
        self.children = {index: self._child() for index in (0, 2, 3)}
        for index, child in self.children.items():
            process = Process.of(child.pid)
            assert process is not None
            add_rank(directory, index, process)
        add_rank(directory, 1, Process.current())
        self.accused: Queue[tuple[int, bool]] = Queue()
        """Each with whether its process was alive then."""
        self.mates = Mates(directory, 1, self._accuse)

    def _accuse(self, index: int, detail: str, at: float) -> None:
        process = next(entry.process for entry in read_roster(self.directory) if entry.index == index)
        self.accused.put((index, alive(process)))

    @staticmethod
    def _child() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def kill(self, index: int) -> None:
        self.children[index].kill()
        self.children[index].wait(LIMIT_S)

    def clean_up(self) -> None:
        self.mates.close()
        for child in self.children.values():
            child.kill()
            child.communicate()


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    directory = HostDir.create("job", "0123456789abcdef", 0, base=tmp_path)
    ring = Ring(directory)
    yield ring
    ring.clean_up()
    directory.remove()


def test_each_death_is_told_in_the_order_of_the_ring(ring: Ring) -> None:
    ring.mates.start()
    ring.kill(2)
    assert ring.accused.get(timeout=LIMIT_S) == (2, False)
    ring.kill(0)
    ring.kill(3)
    assert [ring.accused.get(timeout=LIMIT_S) for _ in range(2)] == [(3, False), (0, False)]


def test_a_rank_that_left_in_order_is_not_accused(ring: Ring) -> None:
    leave(ring.directory, 2)
    ring.kill(2)
    ring.kill(3)
    ring.mates.start()
    assert ring.accused.get(timeout=LIMIT_S) == (3, False)


def test_the_death_of_one_that_was_passed_over_is_not_taken_for_that_of_the_next(ring: Ring) -> None:
    ring.kill(3)
    ring.mates.pass_over(3)
    ring.kill(2)
    ring.mates.start()
    assert ring.accused.get(timeout=LIMIT_S) == (2, False)
    ring.kill(0)
    assert ring.accused.get(timeout=LIMIT_S) == (0, False)
