"""Where the checkpoints of one job are kept: a directory of any filesystem that fsspec knows.

::

    <url>/<job>/<boundary>.<run>.<generation>/task-<id>     one file for each task (`checkpoint_file`)
    <url>/<job>/<boundary>.<run>.<generation>/manifest      put in place last (`taskgraph.plan.manifest`)
    <url>/<job>/finished.<run>                              the job that this run began afresh is finished

A file comes to be under its name when it is whole: by renaming, or where an object appears only once it is. Names are
made here, and what else lies in the directory is never touched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from taskgraph.backends.checkpoint_file import Head, Memory, Reader, write
from taskgraph.config import JOB_NAME
from taskgraph.errors import CheckpointDamaged, CheckpointError, TaskgraphError
from taskgraph.ids import TaskId
from taskgraph.plan.checkpoints import few
from taskgraph.plan.manifest import Manifest, Name

log = logging.getLogger(__name__)

MANIFEST = "manifest"
_FINISHED = "finished."
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "r2"})
_MOST_MANIFEST = 256 << 20
_TASK = re.compile(r"task-(0|[1-9][0-9]{0,9})")


class CheckpointStore:
    """The checkpoints of one job. Every method may take long, and may be called by any thread.

    Parameters
    ----------
    url
        What `fsspec` takes; a plain path is one of this machine.
    job
        The job's name.

    Raises
    ------
    CheckpointError
        There is no such kind of filesystem, or its library is missing. Nothing is connected to here.
    """

    def __init__(self, url: str, job: str) -> None:
        if not JOB_NAME.fullmatch(job):
            raise CheckpointError(f"job={job!r} is not the name of a job")
        self.url = re.sub(r"//[^/@]*@", "//", url)  # a password stays out of messages
        self.job = job
        self._fs, base = filesystem(url)
        self._base = base.rstrip("/")
        self.path = f"{self._base}/{job}"
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        self._renames = not protocols & _OBJECT_STORES
        self._is_local = "file" in protocols

    # ---- what there is ----

    def names(self) -> list[Name]:
        """Return all checkpoints, in whatever state."""
        with self._told("list"):
            found = (Name.parse(entry) for entry in self._list(self.path))
            return [name for name in found if name is not None]

    def manifest(self, name: Name) -> Manifest | None:
        """Return the manifest of a checkpoint; None where it has none.

        Raises
        ------
        CheckpointDamaged
            It is not what was written, or it is of another job or checkpoint.
        CheckpointError
            The store does not answer as it should.
        """
        with self._told(f"read the manifest of {name}"):
            try:
                with self._fs.open(self._file(name, MANIFEST), "rb") as stream:
                    content = stream.read(_MOST_MANIFEST)
            except FileNotFoundError:
                return None
        try:
            manifest = Manifest.decode(content)
        except ValueError as error:
            raise CheckpointDamaged(str(error)) from error
        if (manifest.job, manifest.name) != (self.job, name):
            raise CheckpointDamaged(f"it is one of job {manifest.job!r}, {manifest.name}")
        return manifest

    def check(self, manifest: Manifest) -> None:
        """See that the files of a checkpoint are there, by their sizes. Raises CheckpointDamaged."""
        sizes = self.sizes(manifest.name)
        wrong = [task for task, size in enumerate(manifest.sizes) if sizes.get(task) != size]
        if wrong:
            raise CheckpointDamaged(f"the files of tasks {few(wrong)} are missing, or not as long as they were")

    def sizes(self, name: Name) -> dict[TaskId, int]:
        """Return the tasks whose files are in place, with their bytes."""
        with self._told(f"list {name}"):
            files = self._list(f"{self.path}/{name}")
            return {int(file[5:]): int(size or 0) for file, size in files.items() if _TASK.fullmatch(file)}

    def open_task(self, manifest: Manifest, task: TaskId) -> contextlib.AbstractContextManager[Reader]:
        """Read the file of a task.

        Raises
        ------
        CheckpointDamaged
            It is missing, not what was written, or of another checkpoint.
        """
        return self._open_task(manifest, task)

    @contextlib.contextmanager
    def _open_task(self, manifest: Manifest, task: TaskId) -> Iterator[Reader]:
        name = manifest.name
        with self._told(f"read task {task} of {name}"):
            try:
                stream = self._fs.open(self._file(name, f"task-{task}"), "rb")
            except FileNotFoundError as error:
                raise CheckpointDamaged(f"the file of task {task} is missing") from error
            with stream:
                try:
                    reader = Reader(stream, manifest.sizes[task])
                    head = reader.head
                    whose = (head.job, head.num_tasks, head.task, head.boundary, head.run, head.generation)
                    if whose != (self.job, manifest.num_tasks, task, *name):
                        raise CheckpointDamaged(
                            f"it is of task {head.task} of job {head.job!r}, {head.boundary}.{head.run}"
                        )
                    yield reader
                except CheckpointDamaged as error:
                    raise CheckpointDamaged(f"the file of task {task} is damaged: {error}") from error

    def finished(self) -> set[str]:
        """Return the origins of the jobs that are known to have finished."""
        with self._told("list"):
            return {entry.removeprefix(_FINISHED) for entry in self._list(self.path) if entry.startswith(_FINISHED)}

    # ---- what is written ----

    def prepare(self, name: Name) -> None:
        """Make the directory of a checkpoint; on this machine nobody else can look into it."""
        with self._told(f"make {name}"):
            self._make(f"{self.path}/{name}")

    def write_task(self, head: Head, parts: Sequence[Memory], is_good: Callable[[], bool]) -> bool:
        """Write the file of a task; it is put in place if, in the end, the parts are still good."""
        name = Name(head.boundary, head.run, head.generation)
        with self._told(f"write task {head.task} of {name}"):
            path = self._file(name, f"task-{head.task}")
            return self._put(path, lambda stream: write(stream, head, parts, is_good))

    def complete(self, manifest: Manifest) -> None:
        """Put the manifest in place: from now on the checkpoint exists."""
        with self._told(f"write the manifest of {manifest.name}"):
            self._put_bytes(self._file(manifest.name, MANIFEST), manifest.encode())

    def finish(self, origin: str) -> None:
        """Note that a job has finished: nobody goes on from its checkpoints."""
        with self._told("note that the job is finished"):
            self._make(self.path)
            self._put_bytes(f"{self.path}/{_FINISHED}{origin}", b"finished\n")

    def forget(self, origin: str) -> None:
        """Remove such a note."""
        with self._told("remove a note"), contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self.path}/{_FINISHED}{origin}")

    def remove(self, name: Name) -> None:
        """Remove a checkpoint: it ceases to exist before its files go."""
        with self._told(f"remove {name}"):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(self._file(name, MANIFEST))
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(f"{self.path}/{name}", recursive=True)

    # ---- whether it is one place for all ----

    def leave_mark(self, run: str) -> None:
        """Write something that other ranks can look for."""
        with self._told("write"):
            self._make(self.path)
            self._put_bytes(f"{self.path}/mark.{run}", b"")

    def sees_mark(self, run: str) -> bool:
        """Tell whether what the root has left is seen from here."""
        with self._told("list"):
            return f"mark.{run}" in self._list(self.path)

    def remove_mark(self, run: str) -> None:
        """Remove it."""
        with self._told("remove a mark"), contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self.path}/mark.{run}")

    # ---- how ----

    def _file(self, name: Name, file: str) -> str:
        return f"{self.path}/{name}/{file}"

    def _list(self, directory: str) -> Mapping[str, int | None]:
        self._fs.invalidate_cache(directory)
        try:
            entries = self._fs.ls(directory, detail=True)
        except FileNotFoundError:
            return {}
        return {PurePosixPath(str(entry["name"])).name: entry.get("size") for entry in entries}

    def _make(self, directory: str) -> None:
        if self._is_local:
            os.makedirs(self._base, exist_ok=True)
            for made in (self.path, directory):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(made, 0o700)
        else:
            self._fs.makedirs(directory, exist_ok=True)

    def _put(self, path: str, fill: Callable[[Any], bool]) -> bool:
        """Write a file that is either there as a whole or not; `fill` says whether it is to be."""
        draft = f"{path}.{secrets.token_hex(4)}.part" if self._renames else path
        try:
            with self._fs.open(draft, "wb") as stream:
                good = fill(stream)
                if self._is_local:
                    stream.flush()
                    os.fsync(stream.fileno())
        except BaseException:
            self._discard(draft)
            raise
        if not good:
            self._discard(draft)
        elif self._renames:
            self._rename(draft, path)
        return good

    def _put_bytes(self, path: str, content: bytes) -> None:
        def fill(stream: Any) -> bool:
            stream.write(content)
            return True

        self._put(path, fill)

    def _rename(self, draft: str, path: str) -> None:
        if self._is_local:
            os.replace(draft, path)
            self._sync(os.path.dirname(path))
        else:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(path)
            self._fs.mv(draft, path)

    @staticmethod
    def _sync(directory: str) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _discard(self, draft: str) -> None:
        with contextlib.suppress(Exception):
            self._fs.rm(draft)

    @contextlib.contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Turn whatever a filesystem raises into one error that says where and what."""
        try:
            yield
        except TaskgraphError:
            raise
        except Exception as error:
            raise CheckpointError(f"{self.url}: cannot {doing}: {type(error).__name__}: {error}") from error


def filesystem(url: str) -> tuple[Any, str]:
    """Return a filesystem and the path in it. Raises CheckpointError where there is none of that kind."""
    from fsspec.core import url_to_fs  # takes a tenth of a second, which jobs without checkpoints do without

    try:
        fs, path = url_to_fs(url)
    except Exception as error:
        raise CheckpointError(f"checkpoint={url!r} is no URL that fsspec can use: {error}") from error
    return fs, str(path)


def jobs_at(url: str) -> list[str]:
    """Return the names of the jobs that have checkpoints at a URL."""
    fs, path = filesystem(url)
    try:
        fs.invalidate_cache()
        entries = [PurePosixPath(str(entry)).name for entry in fs.ls(path, detail=False)]
    except FileNotFoundError:
        return []
    except Exception as error:
        raise CheckpointError(f"{url}: cannot list: {type(error).__name__}: {error}") from error
    return sorted(job for job in entries if JOB_NAME.fullmatch(job) and CheckpointStore(url, job).names())
