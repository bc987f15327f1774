"""Where checkpoints are kept: what is whole is found, what is not is told, and nothing else is touched."""

from __future__ import annotations

import errno
import os
import stat
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from taskgraph.backends.checkpoint_store import CheckpointStore, jobs_at
from taskgraph.cli.main import main
from taskgraph.errors import CheckpointDamaged, CheckpointError
from taskgraph.plan.manifest import Name
from tests.checkpoints import NAME, OTHER, RUN, head_of, make, parts_of

STATES = [{"w": np.arange(3.0)}, {"w": np.arange(4.0), "log": b"lines"}]


class FullFileSystem(MemoryFileSystem):
    """A filesystem without a byte left."""

    protocol = "full"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    def _open(self, path, mode="rb", **kwargs):
        if mode != "rb":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super()._open(path, mode, **kwargs)


fsspec.register_implementation("full", FullFileSystem, clobber=True)


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    if request.param == "file":
        yield f"file://{tmp_path}/checkpoints"
    else:
        yield "memory://checkpoints"
        fsspec.filesystem("memory").rm("/checkpoints", recursive=True)


def read(store, manifest, task):
    with store.open_task(manifest, task) as reader:
        targets = [bytearray(length) for length in reader.head.lengths]
        reader.fill(targets)
        return [bytes(target) for target in targets]


def test_what_was_written_is_found_and_read(url):
    made = make(CheckpointStore(url, "job"), STATES)
    store = CheckpointStore(url, "job")
    assert store.names() == [NAME]
    assert store.manifest(NAME) == made
    store.check(made)
    assert read(store, made, 0) == [np.arange(3.0).tobytes()]
    assert read(store, made, 1) == [np.arange(4.0).tobytes(), b"lines"]
    assert jobs_at(url) == ["job"]


def test_where_nothing_is_nothing_is_found(url):
    make(CheckpointStore(url, "other"), STATES)
    store = CheckpointStore(url, "job")
    assert (store.names(), store.manifest(NAME), store.sizes(NAME), store.finished()) == ([], None, {}, set())


def test_without_a_manifest_there_are_files_but_no_checkpoint(url):
    store = CheckpointStore(url, "job")
    store.prepare(NAME)
    store.write_task(head_of(STATES[0]), parts_of(STATES[0]), lambda: True)
    assert list(store.sizes(NAME)) == [0]
    assert store.manifest(NAME) is None


def test_what_changed_while_it_was_written_is_not_put_in_place(url):
    store = CheckpointStore(url, "job")
    store.prepare(NAME)
    assert not store.write_task(head_of(STATES[0]), parts_of(STATES[0]), lambda: False)
    assert store.sizes(NAME) == {}


def test_a_missing_and_a_short_file_are_told(url):
    store = CheckpointStore(url, "job")
    made = make(store, STATES)
    fs, path = fsspec.core.url_to_fs(url)
    with fs.open(f"{path}/job/{NAME}/task-0", "wb") as file:
        file.write(b"short")
    with pytest.raises(CheckpointDamaged, match="files of tasks 0 are"):
        store.check(made)
    with pytest.raises(CheckpointDamaged, match="task 0 is damaged"):
        read(store, made, 0)
    fs.rm(f"{path}/job/{NAME}/task-0")
    with pytest.raises(CheckpointDamaged, match="task 0 is missing"):
        read(store, made, 0)


def test_a_file_of_another_checkpoint_or_task_or_job_is_told(url):
    store = CheckpointStore(url, "job")
    made = make(store, [STATES[0], STATES[0]])
    fs, path = fsspec.core.url_to_fs(url)
    make(CheckpointStore(url, "jab"), [STATES[0], STATES[0]])
    make(store, [STATES[0], STATES[0]], Name(4, OTHER, 0))
    for foreign in (f"job/{NAME}/task-1", f"jab/{NAME}/task-0", f"job/{Name(4, OTHER, 0)}/task-0"):
        fs.cp_file(f"{path}/{foreign}", f"{path}/job/{NAME}/task-0")
        with pytest.raises(CheckpointDamaged, match="it is of task"):
            read(store, made, 0)
    fs.cp_file(f"{path}/jab/{NAME}/manifest", f"{path}/job/{NAME}/manifest")
    with pytest.raises(CheckpointDamaged, match="it is one of job 'jab'"):
        store.manifest(NAME)


def test_only_what_is_asked_for_is_removed(url):
    store = CheckpointStore(url, "job")
    make(store, STATES)
    make(store, STATES, Name(8, RUN, 0))
    store.remove(NAME)
    store.remove(NAME)
    assert store.names() == [Name(8, RUN, 0)]


def test_the_end_of_a_job_is_noted_and_forgotten(url):
    store = CheckpointStore(url, "job")
    store.finish(RUN)
    assert store.finished() == {RUN}
    store.forget(RUN)
    store.forget(RUN)
    assert store.finished() == set()


def test_nobody_else_can_read_what_a_job_writes_on_this_machine(tmp_path):
    previous = os.umask(0)
    try:
        make(CheckpointStore(str(tmp_path), "job"), STATES)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "job").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "job" / str(NAME)).stat().st_mode) == 0o700


def test_no_draft_is_left_and_a_full_disk_is_told(tmp_path):
    store = CheckpointStore(str(tmp_path), "job")
    make(store, STATES)
    assert sorted(os.listdir(tmp_path / "job" / str(NAME))) == ["manifest", "task-0", "task-1"]
    with pytest.raises(CheckpointError, match=r"full://x: cannot write task 0 of .*No space left"):
        make(CheckpointStore("full://x", "job"), STATES)


@pytest.mark.parametrize("job", ["..", "a/b", "", ".hidden", "a\n"])
def test_a_name_that_leads_elsewhere_is_refused(job):
    with pytest.raises(CheckpointError, match="is not the name of a job"):
        CheckpointStore("memory://x", job)


def test_an_unknown_kind_of_filesystem_is_told():
    with pytest.raises(CheckpointError, match="nosuch"):
        CheckpointStore("nosuch://x", "job")


def test_a_password_in_a_url_stays_out_of_messages():
    assert CheckpointStore("full://me:secret@host/x", "job").url == "full://host/x"


# ---- the command line ----


def taskgraph(*words: str):
    done = CliRunner().invoke(main, ["checkpoint", *words])
    return done.exit_code, done.output


def test_the_command_lists_verifies_and_shows(url):
    store = CheckpointStore(url, "job")
    make(store, STATES, Name(4, RUN, 0))
    make(store, STATES, Name(8, RUN, 0))
    store.prepare(Name(12, RUN, 0))
    status, output = taskgraph("list", url)
    rows = output.splitlines()[1:]
    assert status == 0
    assert [(row[0], row.split(str(RUN))[0].split()[-1]) for row in rows] == [(" ", "4."), ("*", "8."), (" ", "12.")]
    assert "incomplete" in rows[2]
    status, output = taskgraph("verify", url)
    assert (status, output.count("all right")) == (0, 2)
    status, output = taskgraph("show", url, f"8.{RUN}.0", "--job", "job")
    assert status == 0
    assert "task 1: w: <f8 (4,) (32 bytes); log: bytes (5 bytes)" in output


def test_the_command_finds_damage_and_says_so_by_its_status(url):
    make(CheckpointStore(url, "job"), STATES)
    fs, path = fsspec.core.url_to_fs(url)
    file = f"{path}/job/{NAME}/task-1"
    data = bytearray(fs.cat_file(file))
    data[-20] ^= 1
    fs.pipe_file(file, bytes(data))
    status, output = taskgraph("verify", url)
    assert status == 1
    assert f"job {NAME}: damaged: the file of task 1 is damaged" in output


@pytest.mark.parametrize("words", [("list",), ("verify",), ("show",)])
def test_the_command_says_where_there_is_nothing(tmp_path, words):
    status, output = taskgraph(*words, str(tmp_path))
    assert status == 1
    (line,) = output.splitlines()
    assert "has no checkpoints" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "--job", "nojob"], "has no checkpoints of job 'nojob'"),
        (["verify", "--job", "nojob"], "has no checkpoints of job 'nojob'"),
        (["show", "--job", "nojob"], "has no checkpoints of job 'nojob'"),
        (["verify", "9.x.0"], "there is no checkpoint 9.x.0 at "),
    ],
)
def test_the_command_names_what_it_did_not_find(tmp_path, words, said):
    make(CheckpointStore(str(tmp_path), "job"), STATES)
    status, output = taskgraph(words[0], str(tmp_path), *words[1:])
    assert status == 1
    (line,) = output.splitlines()
    assert said in line
