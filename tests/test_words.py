"""The abort words of a host, shared by its ranks and its keeper."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph.backends.words import LINE, OVER, AbortWords
from taskgraph.program.codec import Codec


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "words"


def test_every_word_is_zero_at_first(path: Path) -> None:
    words = AbortWords.create(path, 3)
    assert [words.get(rank) for rank in range(len(words))] == [0, 0, 0]


def test_a_word_set_in_one_process_is_read_in_another(path: Path) -> None:
    words = AbortWords.create(path, 4)
    code = (
        "import sys, pathlib\n"
        "from taskgraph.backends.words import AbortWords\n"
        "AbortWords.open(pathlib.Path(sys.argv[1])).set(2, -1)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    assert [words.get(rank) for rank in range(4)] == [0, 0, OVER, 0]


def test_each_rank_has_a_line_of_its_own_aligned_and_writable(path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    words = AbortWords.create(path, 3)
    for rank in range(3):
        line = words.buffer(rank)
        assert len(line) == LINE
        assert not line.readonly
        assert numpy.frombuffer(line, dtype=numpy.uint8).ctypes.data % LINE == 0


def test_what_is_set_shows_in_the_buffer_and_the_reverse(path: Path) -> None:
    words = AbortWords.create(path, 2)
    words.set(1, 7)
    line = words.buffer(1).cast("q")
    assert line[0] == 7
    line[1] = 42
    assert words.progress(1) == 42


def test_the_task_whose_code_a_rank_runs_is_read_with_its_epoch(path: Path) -> None:
    words = AbortWords.create(path, 2)
    epoch = NativeEpoch(Codec())
    epoch.mark_in(words.mark(1))
    epoch.enter(5)
    assert words.working(1) is None
    epoch.caller = 0
    assert words.working(1) == (0, 5)
    assert epoch.caller == 0
    epoch.caller = None
    assert words.working(1) is None
    epoch.caller = 3
    words.rest(1)
    assert words.working(1) is None


def test_a_rank_says_which_epoch_it_has_entered_and_when(path: Path) -> None:
    words = AbortWords.create(path, 2)
    epoch = NativeEpoch(Codec())
    epoch.mark_in(words.mark(1))
    assert words.reached(1) is None
    before = time.time()
    epoch.enter(0)
    reached = words.reached(1)
    assert reached is not None
    assert reached[0] == 0
    assert before - 0.001 <= reached[1] <= time.time() + 0.001
    assert words.reached(0) is None


def test_a_word_advances_and_never_goes_back(path: Path) -> None:
    words = AbortWords.create(path, 1)
    words.set(0, 2)
    words.set(0, 1)
    assert words.get(0) == 2
    words.set(0, OVER)
    words.set(0, 3)
    assert words.get(0) == OVER


def test_all_words_are_set_at_once(path: Path) -> None:
    words = AbortWords.create(path, 5)
    words.set_all(OVER)
    assert {words.get(rank) for rank in range(5)} == {OVER}


def test_a_buffer_outlives_the_words_and_the_file(path: Path) -> None:
    words = AbortWords.create(path, 1)
    line = words.buffer(0)
    words.set(0, 5)
    words.close()
    path.unlink()
    assert line.cast("q")[0] == 5


def test_the_file_is_private_and_made_once(path: Path) -> None:
    AbortWords.create(path, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        AbortWords.create(path, 1)


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError, match="words"):
        AbortWords.create(path, 1)


def test_a_file_of_another_size_is_refused(path: Path) -> None:
    path.write_bytes(b"\0" * 65)
    with pytest.raises(ValueError, match="65 bytes"):
        AbortWords.open(path)
