"""When checkpoints are written, and when one is complete: what the root of a generation sees to, a round for each.

A boundary that lies ahead is asked for through etcd, so that all ranks hold its snapshots back. When it is safe they
write the files of their tasks; the root sees in the store itself that all are there, puts the manifest in place, and
says so in etcd. One round is under way at a time. The first boundary of a generation needs no asking where
`checkpoint_every` is a number: all know it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from taskgraph.backends.coordinator import Coordinator
from taskgraph.config import Config
from taskgraph.errors import CheckpointError, CoordinatorError
from taskgraph.ids import Epoch
from taskgraph.plan import records
from taskgraph.plan.checkpoints import few, interval_s, next_boundary
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import PAUSED, Ending
from taskgraph.plan.holdings import Known
from taskgraph.plan.lineage import History
from taskgraph.plan.manifest import Name
from taskgraph.plan.news import CheckpointFailed, CheckpointWanted, PauseAsked
from taskgraph.run.checkpoints.gate import Gate
from taskgraph.run.checkpoints.shelf import Shelf

log = logging.getLogger(__name__)

POLL_S = 0.05
AHEAD_S = 0.1
"""How far ahead a boundary lies at least when it is asked for, in seconds."""
PATIENCE_S = 0.5
"""How long a job that is to pause may take to come to the end of its epoch before it is left, in seconds."""
FIRST_S = 10.0
"""When the first checkpoint is written to see what it costs, in seconds after the start of a generation."""
LIMIT_S = 600.0
"""How long the files of a boundary that is safe may take, in seconds."""
_AGAIN_S = 1.0
_FIRST_PAUSE_S = 5.0


def first_wanted(decision: Decision, config: Config) -> CheckpointWanted | None:
    """Return what the first round of a generation is about, where that needs no asking."""
    if config.checkpoint_every == "auto":
        return None
    boundary = next_boundary(decision.boundary, 0, config.checkpoint_every)
    return CheckpointWanted(boundary, decision.generation)


def warn_of_none(boundary: Epoch | None, why: object, newest: Name | None, pause_s: float) -> None:
    """Tell a person that a checkpoint was not written."""
    log.warning(
        "NO CHECKPOINT of boundary %s: %s. The job goes on; the newest complete checkpoint is %s; it is tried again in "
        "%.0f s",
        boundary,
        why,
        newest or "none",
        pause_s,
    )


def pause_after(troubles: int) -> float:
    """Return how long to wait until the next attempt after so many that failed, in seconds."""
    return min(_FIRST_PAUSE_S * 2.0 ** (troubles - 1), LIMIT_S)


class Rounds:
    """Used by one thread of every rank; only that of the root of a generation takes turns.

    Parameters
    ----------
    run
        Identity of the run.
    shelf
        Where the checkpoints are.
    progress
        Tells which epoch the rank is in.
    gate
        Where the main thread of the rank stops when the job is to pause.
    clock
        Seconds, never going back.
    """

    def __init__(
        self,
        config: Config,
        run: str,
        shelf: Shelf,
        coordinator: Coordinator,
        progress: Callable[[], Epoch],
        gate: Gate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._run = run
        self._shelf = shelf
        self._coordinator = coordinator
        self._progress = progress
        self.gate = gate
        self._clock = clock
        self._generation = -1
        self._round: CheckpointWanted | None = None
        self._due = 0.0
        self._safe_at: float | None = None
        self._unsaid: Name | None = None
        self._cost_s: float | None = None
        self._ahead_s = AHEAD_S
        self._rate = (0.0, 0, 0.0)
        self._troubles = 0
        self._pause: PauseAsked | None = None
        self._patient_until = 0.0
        self.ask_end: Callable[[Ending], object] = lambda ending: None

    @property
    def busy(self) -> Name | None:
        """The checkpoint that is being written."""
        return None if self._round is None else Name(self._round.boundary, self._run, self._round.generation)

    def heard(self, said: CheckpointFailed | PauseAsked) -> None:
        """Note that a rank cannot do its part, or that the job is to end."""
        if isinstance(said, CheckpointFailed):
            self._failed(said)
        elif self._pause is None:
            log.info("rank=%d was told to end the job: %s", said.rank, said.why)
            self._pause = said
            self._stop()

    def _stop(self) -> None:
        """Shut the gate, and be ready to write the boundary at which the main thread then stops."""
        self.gate.shut()
        self._round, self._due, self._patient_until = None, 0.0, self._clock() + PATIENCE_S

    def _failed(self, failed: CheckpointFailed) -> None:
        if self._round is None or (self._round.boundary, self._round.generation) != (
            failed.boundary,
            failed.generation,
        ):
            return
        if failed.why:
            self._give_up(f"rank {failed.rank}: {failed.why}")
        else:  # it heard of it too late
            log.info("boundary=%d was asked for too late for rank %d", failed.boundary, failed.rank)
            self._ahead_s = min(2 * self._ahead_s, 10.0)
            self._round, self._due = None, 0.0

    def turn(self, decision: Decision, history: History, known: Known) -> float:
        """Do what is due. Return the seconds until there is something to do again."""
        now = self._clock()
        self._measure(now)
        if decision.generation != self._generation:
            self._enter(decision, now)
        try:
            if self._unsaid is not None:
                self._say_complete(self._unsaid)
            if self._round is None:
                return self._ask(known, now) if now >= self._due else self._due - now
            return self._look(self._round, history, known, now)
        except CoordinatorError as error:
            log.debug("checkpoints wait for etcd: %s", error)
            self.gate.open()
            return _AGAIN_S
        except CheckpointError as error:
            self._give_up(str(error))
            return _AGAIN_S

    def _enter(self, decision: Decision, now: float) -> None:
        self._generation, self._safe_at = decision.generation, None
        if self._pause is not None:
            self._stop()
            return
        self._round = first_wanted(decision, self._config)
        self._due = now + (FIRST_S if self._cost_s is None else self._interval_s())

    def _interval_s(self) -> float:
        if self._config.checkpoint_every != "auto" or self._cost_s is None:
            return 0.0
        return interval_s(self._cost_s, self._config.mtbf_s)

    def _measure(self, now: float) -> None:
        """Measure how many epochs the job does in a second."""
        at, epoch, _ = self._rate
        if now - at >= 4 * POLL_S:
            reached = self._progress()
            self._rate = (now, reached, max(reached - epoch, 0) / (now - at))

    # ---- a round ----

    def _ask(self, known: Known, now: float) -> float:
        """Ask for the next boundary that all can still hold back; of a job that is to pause, for its last."""
        if self._pause is not None:
            return self._ask_last(known, now)
        every = self._config.checkpoint_every
        grid = self._config.protect_every if every == "auto" else every
        ahead = math.ceil(self._ahead_s * self._rate[2])
        boundary = next_boundary(self._progress(), ahead, grid)
        if self._config.epochs is not None and boundary >= self._config.epochs:
            self._due = math.inf
            return _AGAIN_S
        return self._want(CheckpointWanted(boundary, self._generation))

    def _want(self, wanted: CheckpointWanted) -> float:
        write = records.want(wanted)
        if not self._coordinator.write(write.entries, absent=write.absent):
            return _AGAIN_S  # the generation is over
        self._round, self._safe_at = wanted, None
        return POLL_S

    def _ask_last(self, known: Known, now: float) -> float:
        if known.generation == self._generation and known.end_at >= 0:  # it ends by itself
            self.gate.open()
            self._due = math.inf
            return _AGAIN_S
        if not self.gate.is_shut:  # it was opened when there was trouble
            self._stop()
        boundary = self._last_boundary(now)
        if boundary is None:
            return POLL_S
        if self._ends_at(boundary):
            return _AGAIN_S
        return self._want(CheckpointWanted(boundary, self._generation, at_once=True))

    def _last_boundary(self, now: float) -> Epoch | None:
        """Return the boundary at which the job has stopped, or that of the epoch that runs if that takes its time."""
        waiting, begun, every = self.gate.waiting, self.gate.begun, self._config.protect_every
        if waiting is not None or begun < 0 or now < self._patient_until:
            return waiting
        return begun // every * every

    def _ends_at(self, boundary: Epoch) -> bool:
        """End the job if a checkpoint of a boundary, or a later one, is complete already."""
        newest = self._shelf.newest
        if self._pause is None or newest is None or newest.boundary < boundary:
            return False
        asked = f"rank {self._pause.rank} was told to end the job: {self._pause.why}"
        why = f"{asked}; checkpoint {newest} is complete, and the next run of this name goes on from there"
        self.ask_end(Ending(status=PAUSED, message=why))
        self._due = math.inf
        return True

    def _look(self, wanted: CheckpointWanted, history: History, known: Known, now: float) -> float:
        """See how far the round is."""
        if not wanted.at_once and (known.generation != wanted.generation or known.safe < wanted.boundary):
            return POLL_S
        if known.end_at == wanted.boundary:  # the job ends there
            self._round, self._due = None, math.inf
            return _AGAIN_S
        if self._safe_at is None:
            self._safe_at = now
        name = Name(wanted.boundary, self._run, wanted.generation)
        sizes = self._shelf.store.sizes(name)
        missing = set(range(self._config.num_tasks)) - sizes.keys()
        took_s = now - self._safe_at
        if not missing:
            self._finish(name, history, tuple(sizes[task] for task in range(self._config.num_tasks)))
            return 0.0
        if took_s > LIMIT_S:
            raise CheckpointError(f"the files of tasks {few(missing)} were not written within {LIMIT_S:.0f} s")
        return min(max(POLL_S, took_s / 10), 1.0)

    def _finish(self, name: Name, history: History, sizes: tuple[int, ...]) -> None:
        self._shelf.complete(name, history, sizes)
        assert self._safe_at is not None
        self._cost_s = self._clock() - self._safe_at
        self._round, self._due = None, 0.0 if self._pause is not None else self._safe_at + self._interval_s()
        if self._troubles:
            log.warning("checkpoints are written again: %s is complete", name)
            self._troubles = 0
        log.info("checkpoint=%s bytes=%d ms=%.1f", name, sum(sizes), 1000 * self._cost_s)
        self._unsaid = name
        self._say_complete(name)
        self._shelf.prune(self.busy)

    def _say_complete(self, name: Name) -> None:
        write = records.complete(name)
        said = self._coordinator.write(write.entries, absent=write.absent)
        self._unsaid = None
        if not said:  # the next generation did not know of it, and may have resumed below
            self._shelf.take_back(name)

    def _give_up(self, why: str) -> None:
        self._troubles += 1
        pause_s = pause_after(self._troubles)
        boundary = self._round.boundary if self._round is not None else None
        warn_of_none(boundary, why, self._shelf.newest, pause_s)
        self._round, self._due = None, self._clock() + pause_s
        self.gate.open()

    # ---- the end ----

    def end(self) -> None:
        """Note that the job has finished, so that the next run of this name begins afresh."""
        self._shelf.end(self.busy)
