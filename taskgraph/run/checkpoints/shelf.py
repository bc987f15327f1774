"""The checkpoints of a job as the one who completes them sees them: what there is, what is removed, how it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass

from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.errors import CheckpointDamaged
from taskgraph.plan.checkpoints import to_remove
from taskgraph.plan.decision import Decision
from taskgraph.plan.lineage import History
from taskgraph.plan.manifest import Manifest, Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a run begins with, the same on every rank.

    Attributes
    ----------
    decision
        The first.
    run
        Identity of the run.
    newest
        The newest checkpoint, which later generations may have to go back to; None: there is none.
    useless
        Checkpoints that have a manifest and turned out damaged.
    origin, started, attempt
        As in `Manifest`, for the checkpoints of this run.
    """

    decision: Decision
    run: str
    newest: Name | None = None
    useless: tuple[Name, ...] = ()
    origin: str
    started: float
    attempt: int


class Shelf:
    """Puts manifests in place, and removes what is old. For one thread; what it raises is a `CheckpointError`.

    Parameters
    ----------
    num_tasks
        Of the job.
    run
        Identity of the run.
    beginning
        What the run began with.
    """

    def __init__(self, store: CheckpointStore, num_tasks: int, run: str, beginning: Beginning) -> None:
        self.store = store
        self._num_tasks = num_tasks
        self._run = run
        self._beginning = beginning
        self._complete: dict[Name, Manifest] = {}
        self._written = self._before = beginning.newest

    @property
    def newest(self) -> Name | None:
        """The newest complete checkpoint of the history that this run is part of."""
        return self._written

    def complete(self, name: Name, history: History, sizes: tuple[int, ...]) -> None:
        """Make a checkpoint of the files that are in place."""
        manifest = Manifest(
            job=self.store.job,
            num_tasks=self._num_tasks,
            name=name,
            origin=self._beginning.origin,
            started=self._beginning.started,
            attempt=self._beginning.attempt,
            history=history,
            written=time.time(),
            sizes=sizes,
        )
        self.store.complete(manifest)
        self._complete[name] = manifest
        self._before, self._written = self._written, name

    def take_back(self, name: Name) -> None:
        """Remove a checkpoint that was complete just now."""
        self._written = self._before
        self._complete.pop(name, None)
        self.store.remove(name)

    def prune(self, busy: Name | None) -> None:
        """Remove what is not needed any more, except the checkpoint that is being written."""
        there = self.store.names()
        for name in there:
            if name not in self._complete and name not in self._beginning.useless:
                try:
                    manifest = self.store.manifest(name)
                except CheckpointDamaged:
                    continue
                if manifest is not None:
                    self._complete[name] = manifest
        self._complete = {name: manifest for name, manifest in self._complete.items() if name in there}
        for name in to_remove(there, self._complete.values(), self._run, busy):
            self.store.remove(name)
            self._complete.pop(name, None)
        for origin in self.store.finished() - {manifest.origin for manifest in self._complete.values()}:
            self.store.forget(origin)

    def end(self, busy: Name | None) -> None:
        """Note that the job has finished, so that the next run of its name begins afresh."""
        if busy is not None:
            self.store.remove(busy)
        if self.store.names():
            self.store.finish(self._beginning.origin)
