"""Between the main thread of a rank and its sidecar: decisions and the end come in, errors and progress go out."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from taskgraph.errors import CoordinatorError, EpochAborted
from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan import records
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Tombstone
from taskgraph.plan.lineage import History
from taskgraph.run.blame import ending_of
from taskgraph.run.control import JobEnded
from taskgraph.run.observer import Observer
from taskgraph.run.sidecar import Sidecar

log = logging.getLogger(__name__)

END_KNOWN_S = 5.0
"""How long to wait for etcd to take an end, or for the reason of one, in seconds."""

_NAP_S = 0.0002


class Inbox:
    """What the sidecar has heard, for the main thread. It is the `Follower` of the rank's recovery."""

    def __init__(self, tell: Callable[[Ending], None] | None) -> None:
        self._tell = tell
        self._news = threading.Condition()
        self._ending: Ending | None = None
        self._decided: tuple[Decision, History] | None = None

    def ended(self, ending: Ending) -> None:
        """Take the end of the job. What no rank has said, such as the loss of etcd's data, is told here."""
        if ending.message and ending.rank is None and self._tell is not None:
            self._tell(ending)
        with self._news:
            self._ending = ending
            self._news.notify_all()

    def decided(self, decision: Decision, history: History) -> None:
        """Take a generation; it replaces one that was not adopted yet."""
        with self._news:
            self._decided = (decision, history)
            self._news.notify_all()

    def dead(self, tombstone: Tombstone) -> None:
        """Leave at once: this rank was declared dead, and whatever it does is not wanted any more."""
        log.warning("this rank leaves: it was declared dead (%s)", tombstone.describe())
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(0)

    def ending(self, timeout_s: float = 0.0) -> Ending | None:
        """Return the end of the job, or None where it is not known in time."""
        with self._news:
            self._news.wait_for(lambda: self._ending is not None, timeout_s)
            return self._ending

    def decision(self, after: Generation) -> tuple[Decision, History] | None:
        """Return the newest decision, if it is of a generation above `after`."""
        decided = self._decided
        return decided if decided is not None and decided[0].generation > after else None


class RankControl:
    """The `Control` of a rank under MPI.

    Parameters
    ----------
    abort
        Ends the job through MPI, where etcd cannot be told.
    """

    def __init__(
        self, rank: Rank, sidecar: Sidecar, inbox: Inbox, observer: Observer, abort: Callable[[int], None]
    ) -> None:
        self._rank = rank
        self._sidecar = sidecar
        self._inbox = inbox
        self._observer = observer
        self._abort = abort
        self._decision: Decision | None = None
        self._interrupted_at = 0.0

    @property
    def _is_root(self) -> bool:
        return self._decision is not None and self._decision.live[0] == self._rank

    def next_decision(self, after: Generation, serve: Callable[[], bool]) -> tuple[Decision, History]:
        """Wait for the decision of a generation above `after`, calling `serve` all the while."""
        self._interrupted_at = time.monotonic()
        while True:
            ending = self._inbox.ending()
            if ending is not None:
                raise JobEnded(ending)
            decided = self._inbox.decision(after)
            if decided is not None:
                return decided
            if not serve():
                time.sleep(_NAP_S)  # MPI has no event to wait for

    def resumed(self, decision: Decision) -> None:
        """Tell a person, from one rank, what was lost and where the job goes on."""
        self._decision = decision
        if decision.generation and self._is_root:
            self._observer.recovered(decision, time.monotonic() - self._interrupted_at)

    def fail(self, error: BaseException, task: TaskId | None, epoch: Epoch | None, generation: Generation) -> None:
        """End the job by an error of the application, unless a failure came before; tell of it if it is the first."""
        ending = ending_of(error, self._rank, task, epoch)
        try:
            if self._sidecar.end(ending, END_KNOWN_S, records.must_be_current(self._rank, generation)):
                self._observer.failed(ending)
        except CoordinatorError as unwritten:
            log.error("%s; the job is ended through MPI", unwritten)
            self._observer.failed(ending)
            self._abort(ending.status)
            raise JobEnded(ending) from error
        ruling = self._inbox.ending()
        if ruling is not None:
            raise JobEnded(ruling) from error

    def conclude(self, generation: Generation, status: int) -> None:
        """Write the status, after what was handed to the sidecar before: a check of a graph may still end the job."""
        answer: Future[bool] = Future()
        absent = records.excluded_by_decision(generation)

        def ask() -> None:
            asked = self._sidecar.ask_end(Ending(status=status), absent)
            asked.add_done_callback(lambda done: answer.set_result(won(done)))

        self._sidecar.call(ask)
        try:
            first = answer.result(END_KNOWN_S)
        except TimeoutError:
            if generation == 0:  # nobody needs to hear of it by etcd
                log.warning("etcd did not take the end of the job within %.1f s; nothing is lost by that", END_KNOWN_S)
                return
            raise EpochAborted from None
        if not first:
            raise EpochAborted

    def progress(self, epochs: Epoch) -> None:
        """Pass it on, on the root."""
        if self._is_root:
            self._sidecar.progress(epochs)
            self._observer.progress(epochs)

    def finishing(self) -> None:
        """Let the tasks have the terminal."""
        self._observer.close()

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
