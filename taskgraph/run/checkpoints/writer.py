"""The thread of a rank that writes checkpoints, off the critical path: from the slots of the host, which outlive it.

What may hold it up, a store that is slow or gone, holds nobody else up: the main thread only says which generation it
has adopted, the sidecar only what it heard. The snapshots of the boundary that is wanted are held back on the host
until another is; nothing is read before that boundary is safe.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable

from taskgraph.backends.commits import Commits
from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.slots import SlotDir
from taskgraph.config import Config
from taskgraph.errors import CheckpointError, CoordinatorError
from taskgraph.ids import Rank
from taskgraph.plan import records
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.lineage import History
from taskgraph.plan.manifest import Name
from taskgraph.plan.news import CheckpointFailed, Checkpoints, CheckpointWanted, PauseAsked
from taskgraph.run.checkpoints.pause_signals import PauseSignals
from taskgraph.run.checkpoints.rounds import POLL_S, Rounds, first_wanted
from taskgraph.run.state.task_files import TaskFiles

log = logging.getLogger(__name__)

_END_S = 10.0
"""How long the end of the job waits for the store, in seconds."""


class Checkpointing:
    """One rank's part in checkpoints.

    Parameters
    ----------
    run
        Identity of the run.
    slots, commits
        Of the host.
    coordinator
        Of this rank.
    files, rounds
        Do the work, in the thread of this object.
    """

    def __init__(
        self,
        config: Config,
        run: str,
        rank: Rank,
        slots: SlotDir,
        commits: Commits,
        coordinator: Coordinator,
        files: TaskFiles,
        rounds: Rounds,
    ) -> None:
        self._config = config
        self._run = run
        self._rank = rank
        self._slots = slots
        self._commits = commits
        self._coordinator = coordinator
        self._files = files
        self._rounds = rounds
        self._changing = threading.Lock()
        self._news = threading.Event()
        self._decision: Decision | None = None
        self._history: History = {}
        self._heard: CheckpointWanted | None = None
        self._wanted: CheckpointWanted | None = None
        self._written: CheckpointWanted | None = None
        self._said: deque[CheckpointFailed | PauseAsked] = deque()
        self._signals = PauseSignals(self._pause)
        self._pausing: PauseAsked | None = None
        self._closing = False
        self._finished = False
        self._thread = threading.Thread(target=self._run_thread, name="taskgraph-checkpoints", daemon=True)

    # ---- what the main thread says ----

    def start(self, ask_end: Callable[[Ending], object]) -> None:
        """Begin.

        Parameters
        ----------
        ask_end
            Ends the job, when a signal has asked for it and there is a checkpoint to go on from.
        """
        self._rounds.ask_end = ask_end
        self._signals.open()
        self._thread.start()

    def adopted(self, decision: Decision, history: History) -> None:
        """Note that the rank has adopted a generation: what was wanted before is wanted no more."""
        self._rounds.gate.entered()
        with self._changing:
            self._decision, self._history = decision, history
            heard = self._heard
            known = heard is not None and heard.generation == decision.generation
            self._want(heard if known else first_wanted(decision, self._config))
        self._news.set()

    def close(self, *, finished: bool) -> None:
        """End the thread. If the job has finished, the root notes it in the store, unless that takes too long."""
        self._signals.close()
        self._finished, self._closing = finished, True
        self._news.set()
        self._thread.join(_END_S)
        if self._thread.is_alive():
            log.warning(
                "%s does not answer at the end of the job%s",
                self._config.checkpoint,
                ": the next run of this name may go on from its last checkpoint" if finished else "",
            )

    # ---- what the sidecar says ----

    def heard(self, said: Checkpoints) -> None:
        """Take what etcd says of checkpoints."""
        match said:
            case CheckpointWanted():
                with self._changing:
                    self._heard = said
                    if self._decision is not None and said.generation == self._decision.generation:
                        self._want(said)
            case CheckpointFailed() | PauseAsked():
                self._said.append(said)
        self._news.set()

    def _want(self, wanted: CheckpointWanted | None) -> None:
        self._wanted = wanted
        self._slots.hold_back(-1 if wanted is None else wanted.boundary)

    # ---- what its own thread does ----

    def _run_thread(self) -> None:
        wait_s = math.inf
        while not self._closing:
            self._news.wait(min(wait_s, 60.0))
            self._news.clear()
            try:
                wait_s = self.turn()
            except Exception:  # whatever is wrong with checkpoints is no reason to end the job
                log.exception("a fault in writing checkpoints; the job goes on")
                self._rounds.gate.open()
                wait_s = 60.0
        try:
            if self._finished and self._is_root:
                self._rounds.end()
        except CheckpointError as error:
            log.warning("%s; the next run of this name may go on from its last checkpoint", error)

    @property
    def _is_root(self) -> bool:
        return self._decision is not None and self._decision.live[0] == self._rank

    def turn(self) -> float:
        """Do what is due. Return the seconds until there may be something to do again, if nothing is heard before."""
        with self._changing:
            decision, history, wanted = self._decision, self._history, self._wanted
        if decision is None or self._closing:
            return math.inf
        wait_s = math.inf if self._pausing is None else self._ask_pause(self._pausing)
        if decision.live[0] == self._rank:  # before it writes: what that takes is part of what a checkpoint costs
            while self._said:
                self._rounds.heard(self._said.popleft())
            wait_s = min(wait_s, self._rounds.turn(decision, history, self._commits.read()[0]))
        if wanted is not None and wanted != self._written:
            wait_s = min(wait_s, self._write(decision, wanted))
        return wait_s

    def _write(self, decision: Decision, wanted: CheckpointWanted) -> float:
        """Write the files of this rank's tasks, once the boundary is safe."""
        known, _ = self._commits.read()
        is_current = known.generation == wanted.generation
        is_safe = is_current and known.safe >= wanted.boundary
        tasks = decision.layout.primaries_of(self._rank)
        if not is_safe and not (wanted.at_once and self._files.are_whole(wanted.boundary, tasks)):
            return POLL_S
        why = self._write_files(Name(wanted.boundary, self._run, wanted.generation), decision, wanted)
        self._written = wanted
        if why is not None and self._is_wanted(wanted):
            failed = CheckpointFailed(wanted.boundary, wanted.generation, self._rank, why)
            log.info("rank=%d boundary=%d is not written: %s", self._rank, wanted.boundary, why or "it is gone")
            write = records.fail_checkpoint(failed)
            try:
                self._coordinator.write(write.entries, absent=write.absent)
            except CoordinatorError as error:
                log.debug("nobody is told that: %s", error)
        return 0.0

    def _write_files(self, name: Name, decision: Decision, wanted: CheckpointWanted) -> str | None:
        """Return why it was not done; empty: it is too late."""
        try:
            self._files.prepare(name)
            for task in decision.layout.primaries_of(self._rank):
                if not self._files.write(name, task, lambda: self._is_wanted(wanted)):
                    return ""
        except CheckpointError as error:
            return str(error)
        return None

    def _pause(self, why: str) -> None:
        """Take, in the handler of a signal, that the job is to end."""
        self._pausing = PauseAsked(self._rank, why)
        self._news.set()

    def _ask_pause(self, asked: PauseAsked) -> float:
        write = records.pause(asked)
        try:
            self._coordinator.write(write.entries, absent=write.absent)
        except CoordinatorError as error:
            log.debug("nobody is told that the job is to end: %s", error)
            return 1.0
        self._pausing = None
        return math.inf

    def _is_wanted(self, wanted: CheckpointWanted) -> bool:
        return not self._closing and self._wanted == wanted
