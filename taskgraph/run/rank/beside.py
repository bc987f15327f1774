"""All that runs in a rank beside its main thread: the sidecar with its duties, and the watch on another rank."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from taskgraph.backends.commits import Commits
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.processes import Process
from taskgraph.backends.slots import SlotDir
from taskgraph.backends.words import AbortWords
from taskgraph.config import Config
from taskgraph.errors import CoordinatorError
from taskgraph.ids import Epoch, Generation
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Tombstone, Work
from taskgraph.plan.lifecycle import Unit
from taskgraph.plan.news import Checkpoints
from taskgraph.plan.records import TOLD
from taskgraph.plan.succession import Succession
from taskgraph.run.checkpoints.writer import Checkpointing
from taskgraph.run.host.directory import HostDir
from taskgraph.run.keeper.guard import KeeperGuard
from taskgraph.run.rank.inbox import Inbox
from taskgraph.run.rank.leaving import leave_now
from taskgraph.run.rank.mates import Mates
from taskgraph.run.rank.observer import Observer
from taskgraph.run.rank.timeline import Timeline
from taskgraph.run.start.site import ROOT, Site
from taskgraph.run.unit.duties import Progress, Registration, Show
from taskgraph.run.unit.etcd_state import Patience
from taskgraph.run.unit.recovery import Recovery
from taskgraph.run.unit.sidecar import Sidecar
from taskgraph.run.unit.stall import StallWatch

log = logging.getLogger(__name__)

_TELLERS = 16
"""How many ranks try to be the one that prints what no rank has said."""
_LAST_WORD_S = 2.0
"""How long a process that is about to end waits until etcd knows why, in seconds."""


class Shared(NamedTuple):
    """The memory that the ranks of a host and its keeper share."""

    words: AbortWords
    slots: SlotDir
    commits: Commits

    @classmethod
    def open(cls, directory: HostDir) -> Shared:
        """Map it."""
        return cls(AbortWords.open(directory.words), SlotDir.open(directory.slots), Commits.open(directory.commits))


class Beside:
    """The threads of one rank. As a context manager it starts and ends them.

    Parameters
    ----------
    coordinator
        Of this rank.
    decision
        Of generation 0.
    checkpointing
        This rank's part in checkpoints; None: there are none.
    """

    def __init__(
        self,
        config: Config,
        site: Site,
        directory: HostDir,
        shared: Shared,
        coordinator: EtcdCoordinator,
        decision: Decision,
        observer: Observer,
        checkpointing: Checkpointing | None = None,
    ) -> None:
        self._site = site
        self._coordinator = coordinator
        self._directory = directory
        self._decision = decision
        self._observer = observer
        self._checkpointing = checkpointing
        self._words = shared.words
        self._is_root = site.rank == ROOT
        unit = Unit(run=site.run, host=site.host, rank=site.rank)
        self._succession = Succession(unit, backups=config.backups, placement=config.placement)
        self.timeline = Timeline(site.rank, decision)
        self._mates = Mates(directory, site.index, self._accuse)
        self.inbox = Inbox(self._heard_of_death, self._tell, self._heard_of_checkpoint)
        self.stall = StallWatch(site.rank, config.stall_timeout_s)
        self._recovery = Recovery(
            self._succession, shared.slots, shared.commits, shared.words, self.inbox, lease_s=config.lease_s
        )
        self.sidecar = Sidecar(
            coordinator,
            unit,
            on_end=self.inbox.ended,
            on_failure=observer.failed,
            words=shared.words,
            duties=[
                Registration(unit, Process.current()),
                KeeperGuard(directory),
                self.stall,
                Progress(self._progress),
                Show(self._progress, observer.progress),
            ],
            recovery=self._recovery,
            on_fault=self._leave_by_fault,
            patience=Patience(own=not config.etcd, lost_after_s=config.etcd_lost_after_s),
        )

    def __enter__(self) -> Beside:
        atexit.register(self._left_early)
        self.sidecar.start()
        if self._checkpointing is not None:
            self._checkpointing.start(self.sidecar.ask_end)
        self._mates.start()
        return self

    def __exit__(self, *_: object) -> None:
        atexit.unregister(self._left_early)
        self.end_checkpoints(finished=False)
        self._mates.close()
        self.sidecar.close()

    @property
    def has_lost(self) -> bool:
        """Whether some rank is known to be dead, so that MPI_Finalize would wait for it."""
        return bool(self._succession.tombstones) or self._recovery.has_accused

    def must_write(self, generation: Generation) -> bool:
        """Tell whether the end of the job in a generation has to be in etcd before anyone leaves; from any thread."""
        return self._recovery.must_write(generation)

    def adopted(self, decision: Decision) -> None:
        """Note that this rank has restored its state in a generation."""
        self._is_root = decision.live[0] == self._site.rank
        if self._checkpointing is not None:
            newest = self.inbox.decision(decision.generation - 1)
            history = newest[1] if newest is not None else decision.history
            upto = {generation: at for generation, at in history.items() if generation <= decision.generation}
            self._checkpointing.adopted(decision, upto)

    def end_checkpoints(self, *, finished: bool) -> None:
        """Write no checkpoints any more; if the job has finished, note it where they are. Idempotent."""
        checkpointing, self._checkpointing = self._checkpointing, None
        if checkpointing is not None:
            checkpointing.close(finished=finished)

    def _progress(self) -> Epoch | None:
        """Return the epoch that this rank is in, if it is the one that tells how far the job is."""
        if not self._is_root:
            return None
        reached = self._words.reached(self._site.index)
        return self._decision.boundary if reached is None else reached[0]

    def _heard_of_checkpoint(self, said: Checkpoints) -> None:
        if self._checkpointing is not None:
            self._checkpointing.heard(said)

    def _accuse(self, index: int, detail: str, at: float) -> None:
        working = self._words.working(index)
        work = Work(*working) if working else None
        self.sidecar.accuse([self._site.local[index]], Evidence.PROCESS, detail, at, work)

    def _heard_of_death(self, tombstone: Tombstone) -> None:
        self.timeline.heard(tombstone, time.time())
        for rank in tombstone.ranks:
            if rank in self._site.local:
                self._mates.pass_over(self._site.local.index(rank))

    def _tell(self, ending: Ending) -> None:
        """Print what no rank has said. Once in the job; without etcd, once a host."""
        if self.sidecar.has_etcd:
            with suppress(CoordinatorError):
                if self._is_to_tell():
                    self._observer.failed(ending)
                return
        with suppress(OSError):
            flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(self._directory.path / "told", flags, 0o600))
            self._observer.failed(ending)

    def _is_to_tell(self) -> bool:
        """Settle in etcd which rank prints.

        Several try, as the first that is not known to be dead may just have died.

        Raises
        ------
        CoordinatorError
        """
        dead = self._succession.tombstones
        listed = [rank for rank in (self._succession.newest or self._decision).live if rank not in dead]
        if self._site.rank not in listed[:_TELLERS]:
            return False
        return self._coordinator.write({TOLD: str(self._site.rank).encode()}, absent=(TOLD,))

    def _leave_by_fault(self, error: Exception) -> None:
        log.error("this rank leaves, the others go on: %s: %s", type(error).__name__, error)
        leave_now(0)

    def _left_early(self) -> None:
        """Say so where the interpreter is left while the job runs. What MPI would do at its end may never return."""
        self.sidecar.accuse([self._site.rank], Evidence.SELF, "the interpreter was left while the job ran")
        threading.Event().wait(_LAST_WORD_S)  # the sidecar ends this process once it sees its tombstone
        leave_now(1)
