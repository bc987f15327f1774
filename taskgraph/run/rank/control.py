"""Between the main thread of a rank and its sidecar: decisions and the end come in, errors and progress go out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from taskgraph.errors import CoordinatorError, EpochAborted
from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan import records
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence
from taskgraph.plan.lineage import History
from taskgraph.run.checkpoints.gate import Gate
from taskgraph.run.rank.error_ending import ending_of
from taskgraph.run.rank.inbox import Inbox
from taskgraph.run.rank.leaving import leave_as_child, leave_now
from taskgraph.run.rank.observer import Observer
from taskgraph.run.rank.timeline import Timeline
from taskgraph.run.unit.sidecar import Sidecar
from taskgraph.run.worker.control import NAP_S, JobEnded

log = logging.getLogger(__name__)

END_KNOWN_S = 5.0
"""How long to wait for etcd to take an end, or for the reason of one, in seconds."""


class RankControl:
    """The `Control` of a rank under MPI.

    Parameters
    ----------
    abort
        Ends the job through MPI, where etcd can never be told.
    reached
        Tells which epoch this rank entered last, and when.
    adopted
        Is told of each generation once this rank has restored its state.
    launcher_gone
        Tells whether what started this rank is there no more.
    gate
        Where this rank stops if it is the root of a job that is to pause.
    must_write
        Tells whether the end of a job in a generation has to be in etcd before anyone leaves.
    """

    def __init__(
        self,
        rank: Rank,
        sidecar: Sidecar,
        inbox: Inbox,
        timeline: Timeline,
        observer: Observer,
        abort: Callable[[int], None],
        reached: Callable[[], tuple[Epoch, float] | None],
        adopted: Callable[[Decision], None],
        launcher_gone: Callable[[], bool],
        gate: Gate,
        must_write: Callable[[Generation], bool],
    ) -> None:
        self._rank = rank
        self._process = os.getpid()
        self._sidecar = sidecar
        self._inbox = inbox
        self._timeline = timeline
        self._observer = observer
        self._abort = abort
        self._reached = reached
        self._adopted = adopted
        self._launcher_gone = launcher_gone
        self._gate = gate
        self._must_write = must_write
        self._decision: Decision | None = None

    @property
    def _is_root(self) -> bool:
        return self._decision is not None and self._decision.live[0] == self._rank

    def next_decision(self, after: Generation, serve: Callable[[], bool]) -> tuple[Decision, History]:
        """Wait for the decision of a generation above `after`, calling `serve` all the while."""
        while True:
            ending = self._inbox.ending()
            if ending is not None:
                raise self._ended(ending)
            decided = self._inbox.decision(after)
            if decided is not None:
                return decided
            if not serve():
                time.sleep(NAP_S)

    def resumed(self, decision: Decision) -> None:
        """Tell a person, from one rank, what was lost and where the job goes on."""
        self._decision = decision
        self._adopted(decision)
        if decision.follows_failure:
            recovered = self._timeline.resumed(decision, self._reached(), self._inbox.decided_at, time.time())
            if self._is_root:
                self._observer.recovered(recovered)

    def fail(self, error: BaseException, task: TaskId | None, epoch: Epoch | None, generation: Generation) -> None:
        """End the job by an error of the application, unless a failure came before; tell of it if it is the first."""
        if os.getpid() != self._process:
            leave_as_child(error)
        ending = ending_of(error, self._rank, task, epoch)
        # A terminal that goes with the launcher makes every `print` fail, until the keeper ends this rank.
        if self._launcher_gone():
            log.info("the launcher is gone, and with that this does not count: %s", ending.describe())
            return
        asked = self._sidecar.ask_end(ending, records.must_be_current(self._rank, generation))
        try:
            if asked.result(END_KNOWN_S):
                self._observer.failed(ending)
        except TimeoutError:  # perhaps only this rank is cut off, and others go on without it
            log.warning("etcd is away; the job ends as soon as it can be told of this: %s", ending.describe())
            asked.add_done_callback(partial(_tell, self._observer, ending))
            return
        except CoordinatorError as unwritten:
            log.error("%s; the job is ended through MPI", unwritten)
            self._observer.failed(ending)
            self._abort(ending.status)
            raise JobEnded(ending) from error
        ruling = self._inbox.ending()
        if ruling is not None:
            raise self._ended(ruling) from error

    def _ended(self, ending: Ending) -> JobEnded:
        return JobEnded(ending, everywhere=self._sidecar.has_etcd)

    def conclude(self, generation: Generation, status: int) -> None:
        """Write the status, after what was handed to the sidecar before: a check of a graph may still end the job."""
        answer: Future[bool] = Future()
        absent = records.excluded_by_decision(generation)
        if not self._sidecar.has_etcd and (not self._must_write(generation) or self._sidecar.wiped):
            log.warning("etcd is away, and is not told that the job is over; nothing is lost by that")
            return

        def ask() -> None:
            asked = self._sidecar.ask_end(Ending(status=status), absent)
            asked.add_done_callback(lambda done: answer.set_result(won(done)))

        self._sidecar.call(ask)
        try:
            first = answer.result(END_KNOWN_S)
        except TimeoutError:
            if not self._must_write(generation):  # nobody needs to hear of it by etcd
                log.warning("etcd did not take the end of the job within %.1f s; nothing is lost by that", END_KNOWN_S)
                return
            raise EpochAborted from None
        if not first:
            raise EpochAborted

    def begins(self, epoch: Epoch) -> bool:
        """Ask the gate. Raises EpochAborted where there is nothing to wait for any more."""
        if self._gate.may_begin(epoch):
            if self._timeline.is_behind:
                self._timeline.epoch(epoch, time.time())
            return True
        assert self._decision is not None
        if self._inbox.ending() is not None or self._inbox.decision(self._decision.generation) is not None:
            raise EpochAborted
        return False

    @property
    def _epochs(self) -> Epoch:
        """How many epochs the job has done, when this rank has finished the last."""
        reached = self._reached()
        return 0 if reached is None else reached[0] + 1

    def finishing(self) -> None:
        """Let the tasks have the terminal."""
        if self._is_root:
            self._observer.progress(self._epochs)
        self._observer.close()

    def fenced(self, by: Rank) -> None:
        """Leave at once: without etcd this is how a rank hears that it was declared dead."""
        log.warning("this rank leaves: its generation is over, says rank %d", by)
        leave_now(0)

    def left(self) -> None:
        """Tell a person, from one rank, what the job went through, if it lost ranks."""
        if self._decision is not None and self._decision.follows_failure and self._is_root:
            self._observer.survived(self._timeline.survived(self._epochs))

    def lost(self, rank: Rank) -> None:
        """Report the rank."""
        self._sidecar.accuse([rank], Evidence.PEER)


def tell_if_first(sidecar: Sidecar, observer: Observer, ending: Ending) -> None:
    """End the job from the sidecar's thread; tell the observer if this ending is the first."""
    sidecar.ask_end(ending).add_done_callback(partial(_tell, observer, ending))


def _tell(observer: Observer, ending: Ending, done: Future[bool]) -> None:
    if won(done):
        observer.failed(ending)


def won(done: Future[bool]) -> bool:
    """Tell whether a request to end the job was the first."""
    return not done.cancelled() and done.exception() is None and done.result()
