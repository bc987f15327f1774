"""The thread beside the main thread of a rank, and the heart of a keeper: it talks to etcd, so that nobody else has to.

It never touches MPI or user code. What it hears goes through the table of `taskgraph.plan.lifecycle`; this file turns
keys into events and obeys orders. One turn is a plain method, so a test needs no thread and no sleep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.words import OVER, AbortWords
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, RunReplaced, RunWiped
from taskgraph.ids import Epoch, Host
from taskgraph.plan import lifecycle
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import Do, Unit
from taskgraph.run.duties import Duty, Progress
from taskgraph.run.hearing import ending_of, hear, hosts_after

log = logging.getLogger(__name__)

TURN_S = 0.5
"""The longest that a turn waits for news, in seconds: what has no event is looked at this often."""
_RETRY_S = 0.5


@dataclass(slots=True)
class _Request:
    """Somebody wants the job to end so."""

    ending: Ending
    answer: Future[bool]
    tried: bool = False
    """Whether a write was begun; without an answer it may have been carried out."""


class Sidecar:
    """Holds the watch of one unit, ends the job when asked, and tells when it has ended.

    Parameters
    ----------
    coordinator
        Of this unit alone: `close` closes it. Its operations should give up after about 2 s: they are tried again.
    unit
        Who this is.
    on_end
        Called once, in the thread of the sidecar, with the ending that rules.
    words
        The abort words of the host: all are set once the job is over.
    duties
        What is to be done from time to time.
    clock
        Seconds, never going back.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        unit: Unit,
        *,
        on_end: Callable[[Ending], None],
        words: AbortWords | None = None,
        duties: Sequence[Duty] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._coordinator = coordinator
        self._unit = unit
        self._on_end = on_end
        self._words = words
        self._clock = clock
        self._state = lifecycle.begin(unit)
        self._away = False
        self._lost_run = False
        self._epoch: Epoch | None = None
        own: list[Duty] = [Progress(lambda: self._epoch)] if unit.root and unit.rank is not None else []
        self._due = dict.fromkeys([*duties, *own], float("-inf"))
        self._asked: deque[_Request] = deque()
        self._ruling: Ending | None = None
        self._calls: deque[Callable[[], None]] = deque()
        self._hosts: frozenset[Host] | None = None
        self._closing = threading.Event()
        self._finishing = threading.Lock()
        self._finished = False
        self._thread: threading.Thread | None = None

    @property
    def hosts(self) -> frozenset[Host] | None:
        """The hosts that hold their lease, as far as this unit has heard; None: it has heard nothing yet."""
        return self._hosts

    @property
    def over(self) -> bool:
        """Whether an ending was delivered."""
        return self._state is lifecycle.State.OVER

    # What the main thread calls.

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="taskgraph-sidecar", daemon=True)
        self._thread.start()

    def progress(self, epoch: Epoch) -> None:
        """Say which epoch was reached; on the root rank it is written to etcd now and then. Costs one store."""
        self._epoch = epoch

    def end(self, ending: Ending, timeout_s: float = 5.0) -> bool:
        """End the job, unless it has ended.

        Returns
        -------
        bool
            True if this ending is the first, and rules; False where another was first. `on_end` is called in both
            cases, with the one that rules.

        Raises
        ------
        CoordinatorError
            etcd took nothing within `timeout_s` seconds. It is tried further until `close`.
        """
        try:
            return self.ask_end(ending).result(timeout_s)
        except TimeoutError:
            raise CoordinatorError(f"etcd did not take the end of the job within {timeout_s:.1f} s") from None

    def ask_end(self, ending: Ending) -> Future[bool]:
        """Begin to end the job; the future has what `end` returns."""
        request = _Request(ending, Future())
        self._asked.append(request)
        if self._finished:  # nobody will look any more
            self._refuse_ends()
        self._coordinator.wake()
        return request.answer

    def call(self, function: Callable[[], None]) -> None:
        """Let the sidecar's thread call a function, soon and in order. An exception of its ends the job."""
        self._calls.append(function)
        self._coordinator.wake()

    def close(self, timeout_s: float = 5.0) -> None:
        """Do what was handed over, then end the thread and close the coordinator. Idempotent."""
        self._closing.set()
        self._coordinator.wake()
        if self._thread is None:
            self._finish()
        elif self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("%s did not end within %.1f s", self._unit, timeout_s)
        self._coordinator.close()

    # What its own thread does.

    def run(self) -> None:
        """Take turns until `close`. Never raises: a failure of this thread ends the job."""
        try:
            while not self._closing.is_set():
                self.turn(TURN_S)
        except Exception as error:
            if not self._closing.is_set():  # else the coordinator was closed under it
                log.exception("%s failed", self._unit)
                self._fail(error)
        finally:
            self._finish()

    def turn(self, timeout_s: float) -> None:
        """Do what is due, then take in what is new, waiting up to `timeout_s` seconds for it."""
        try:
            self._do_calls()
            self._do_ends()
            wait_s = self._do_duties(timeout_s)
            if self._asked and not self._away:
                wait_s = min(wait_s, _RETRY_S)
            if self._lost_run:
                self._closing.wait(wait_s)
                return
            for news in self._coordinator.news(max(wait_s, 0.0)):
                self._hosts = hosts_after(self._hosts, news)
                for event in hear(news, self._unit.run):
                    self._take(event)
            self._do_calls()
            self._do_ends()
        except (RunReplaced, RunWiped) as error:
            self._lost_run = True
            self._take(lifecycle.UnitFailed(Ending(status=1, message=str(error))))
        if self.over and self._words is not None:
            self._words.set_all(OVER)  # again: see AbortWords.set

    def _do_calls(self) -> None:
        while self._calls:
            function = self._calls.popleft()
            try:
                function()
            except Exception as error:
                self.ask_end(lifecycle.failure(self._unit, error))

    def _do_ends(self) -> None:
        while self._asked and (self.over or not self._away):
            request = self._asked[0]
            try:
                self._take(lifecycle.EndAsked(request.ending), request)
            except CoordinatorUnreachable as error:
                log.debug("the end of the job is still to be written: %s", error)
                return
            self._asked.popleft()

    def _do_duties(self, limit_s: float) -> float:
        """Do what is due; return the seconds to wait for something else."""
        for duty, due in self._due.items():
            if duty.needs_etcd and not self._has_etcd():
                continue
            now = self._clock()
            if now >= due:
                try:
                    due = now + duty.turn(self._coordinator, now)
                except CoordinatorUnreachable as error:
                    log.debug("%s will try again: %s", self._unit, error)
                    due = now + _RETRY_S
                self._due[duty] = due
            limit_s = min(limit_s, due - now)
        return limit_s

    def _has_etcd(self) -> bool:
        return not self._away and not self._lost_run and self._state is not lifecycle.State.JOINING

    def _take(self, event: lifecycle.Event, request: _Request | None = None) -> None:
        was = self._state
        if isinstance(event, lifecycle.RunIsAbsent | lifecycle.RunIsAnothers):
            self._lost_run = was is not lifecycle.State.JOINING
        elif isinstance(event, lifecycle.EtcdAway | lifecycle.EtcdBack):
            self._away = isinstance(event, lifecycle.EtcdAway)
        after, orders = lifecycle.step(was, event)
        if Do.WRITE_STATUS in orders:
            assert request is not None
            self._write_status(request)  # may raise: then nothing has happened yet
            return
        self._state = after
        for order in orders:
            self._obey(order, event, request)

    def _obey(self, order: Do, event: lifecycle.Event, request: _Request | None) -> None:
        match order, event:
            case Do.DELIVER, (
                lifecycle.StatusSeen(ending=ending)
                | lifecycle.UnitFailed(ending=ending)
                | lifecycle.RunIsAbsent(ending=ending)
                | lifecycle.RunIsAnothers(ending=ending)
            ):
                log.info("the job is over: status %d %s", ending.status, ending.describe())
                self._ruling = ending
                self._on_end(ending)
            case Do.SET_WORDS, _:
                if self._words is not None:
                    self._words.set_all(OVER)
            case Do.ANSWER_LOST, _:
                assert request is not None
                request.answer.set_result(request.tried and self._ruling == request.ending)
            case Do.LOG_OUTAGE, lifecycle.EtcdAway(why):
                log.warning("etcd is away, the job goes on without it: %s", why)
            case Do.LOG_RETURN, _:
                log.warning("etcd is back")

    def _write_status(self, request: _Request) -> None:
        value = request.ending.encode()
        tried, request.tried = request.tried, True
        won = self._coordinator.write({"status": value}, absent=("status",))
        there = value if won else self._coordinator.read("status").get("status", value)
        self._take(lifecycle.RunIsOurs())  # else the write would have been refused
        self._take(lifecycle.StatusSeen(ending_of(there)))
        request.answer.set_result(won or (tried and there == value))

    def _fail(self, error: Exception) -> None:
        ending = lifecycle.failure(self._unit, error)
        try:
            if not self.over:
                self._write_status(_Request(ending, Future()))
        except Exception:
            log.debug("the failure of %s cannot be written to etcd", self._unit, exc_info=True)
        try:
            self._take(lifecycle.UnitFailed(ending))
        except Exception:
            log.exception("%s cannot deliver the end", self._unit)

    def _finish(self) -> None:
        """Do what is left, once; nothing of it may hold the end up."""
        with self._finishing:
            if self._finished:
                return
            self._finished = True
            steps: list[Callable[[], None]] = [self._do_calls, self._do_ends]
            for duty in self._due:
                steps.append(partial(self._finish_duty, duty))
            for step in steps:
                try:
                    step()
                except Exception as error:
                    log.debug("%s leaves something undone: %s", self._unit, error)
        self._refuse_ends()

    def _finish_duty(self, duty: Duty) -> None:
        if not duty.needs_etcd or self._has_etcd():
            duty.finish(self._coordinator)

    def _refuse_ends(self) -> None:
        while self._asked:
            answer = self._asked.popleft().answer
            if self.over:
                answer.set_result(False)
            else:
                answer.set_exception(CoordinatorError("the sidecar was closed before etcd took the end of the job"))
