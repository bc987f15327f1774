"""The end of a job as one unit brings it about and hears of it: `taskgraph.plan.lifecycle`, carried out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field

from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.words import OVER, AbortWords
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, RunWiped
from taskgraph.plan import lifecycle
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import (
    Do,
    EndAsked,
    EtcdAway,
    Event,
    RunIsAnothers,
    RunIsOurs,
    State,
    StatusSeen,
    Unit,
    UnitFailed,
)
from taskgraph.plan.records import STATUS
from taskgraph.run.unit.etcd_state import WIPED, EtcdState
from taskgraph.run.unit.hearing import ending_of

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _EndRequest:
    """A wish for an end, and the answer to come.

    Attributes
    ----------
    ending
        How.
    absent
        Keys that must not be there; else the request is dropped.
    answer
        True where it came first and rules, False where another did.
    tried
        Whether a write was begun. Without an answer from etcd it may have been carried out.
    """

    ending: Ending
    absent: tuple[str, ...] = ()
    answer: Future[bool] = field(default_factory=Future)
    tried: bool = False

    def if_it_rules(self, tell: Callable[[Ending], None]) -> None:
        """Call `tell` with the ending, once it is known to rule, in the thread that finds out."""

        def answered(answer: Future[bool]) -> None:
            if answer.exception() is None and answer.result():
                tell(self.ending)

        self.answer.add_done_callback(answered)

    def answer_after(self, ruling: Ending | None) -> None:
        """Answer when the job has ended: it was this one all the same if its write was begun and it is what rules."""
        if not self.answer.done():
            self.answer.set_result(self.tried and ruling == self.ending)


class JobEnd:
    """How the job ends, once.

    Parameters
    ----------
    coordinator, etcd
        To write to, and whether it can be.
    on_end, on_failure, words
        As for `Sidecar`.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        etcd: EtcdState,
        unit: Unit,
        on_end: Callable[[Ending], None],
        on_failure: Callable[[Ending], None] | None,
        words: AbortWords | None,
    ) -> None:
        self._coordinator = coordinator
        self._etcd = etcd
        self._unit = unit
        self._on_end = on_end
        self._on_failure = on_failure
        self._words = words
        self._state = lifecycle.begin(unit)
        self._asked: deque[_EndRequest] = deque()
        self._ruling: Ending | None = None

    @property
    def over(self) -> bool:
        """Whether an ending was delivered."""
        return self._state is State.OVER

    @property
    def joining(self) -> bool:
        """Whether the run of this unit has not claimed the name yet."""
        return self._state is State.JOINING

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for an end that is not written."""
        return bool(self._asked)

    def ask(self, ending: Ending, absent: Collection[str]) -> Future[bool]:
        """Take a wish for an end; from any thread. The future tells whether it rules."""
        request = _EndRequest(ending, absent=tuple(absent))
        self._asked.append(request)
        return request.answer

    def refuse_all(self) -> None:
        """Answer all that wait, when nobody will carry them out any more."""
        while self._asked:
            request = self._asked.popleft()
            if self._ruling is not None:
                request.answer_after(self._ruling)
            else:
                error = CoordinatorError("the sidecar was closed before etcd took the end of the job")
                request.answer.set_exception(error)

    def write(self) -> None:
        """Carry out what was asked for, as far as etcd lets it."""
        while self._asked and (self.over or not self._etcd.away):
            request = self._asked[0]
            try:
                if self._etcd.wiped and not self.over:
                    raise RunWiped(WIPED)
                self.take(EndAsked(request.ending), request)
            except CoordinatorUnreachable as error:
                log.debug("the end of the job is still to be written: %s", error)
                return
            except RunWiped as error:
                self._etcd.lose(str(error))
                request.answer.set_exception(error)
            self._asked.popleft()

    def take(self, event: Event, request: _EndRequest | None = None) -> None:
        """Take in an event. May raise what the coordinator does; then nothing has happened yet."""
        self._state, orders = lifecycle.step(self._state, event)
        for order in orders:
            self._obey(order, event, request)

    def end_without_etcd(self, ending: Ending) -> None:
        """End the job on this host; if somebody has asked for an end in vain, so."""
        if self._asked:
            ending, self._asked[0].tried = self._asked[0].ending, True
        self.take(UnitFailed(ending))

    def fail(self, error: Exception) -> None:
        """End the job by a failure of this unit, as far as that can still be done."""
        request = self._own_request(error)
        try:
            if not self.over:
                self._write_status(request)
        except Exception as unwritten:
            log.debug("the failure of %s cannot be written to etcd: %s", self._unit, unwritten)
        try:
            self.take(UnitFailed(request.ending))
        except Exception:
            log.exception("%s cannot deliver the end", self._unit)
        request.tried = True  # told to nobody else, it is still what rules here
        request.answer_after(self._ruling)

    def ask_by_error(self, error: Exception) -> None:
        """Let an error in a call that this unit made end the job."""
        self._asked.append(self._own_request(error))

    def _own_request(self, error: Exception) -> _EndRequest:
        """Make an error of this thread the end of the job; where it rules, tell who prints it."""
        request = _EndRequest(lifecycle.failure(self._unit, error))
        if self._on_failure is not None:
            request.if_it_rules(self._on_failure)
        return request

    def _obey(self, order: Do, event: Event, request: _EndRequest | None) -> None:
        match order, event:
            case Do.WRITE_STATUS, _:
                assert request is not None
                self._write_status(request)
            case Do.DELIVER, StatusSeen() | UnitFailed() | RunIsAnothers():
                self._ruling = event.ending
                log.info("the job is over: status %d %s", event.ending.status, event.ending.describe())
                self._on_end(event.ending)
            case Do.SET_WORDS, _:
                if self._words is not None:
                    self._words.set_all(OVER)
            case Do.ANSWER_LOST, _:
                assert request is not None
                request.answer_after(self._ruling)
            case Do.LOSE_ETCD, _:
                self._etcd.lose(WIPED)
            case Do.LOG_OUTAGE, EtcdAway(why):
                log.warning("etcd is away, the job goes on without it: %s", why)
            case Do.LOG_RETURN, _:
                log.warning("etcd is back")

    def _write_status(self, request: _EndRequest) -> None:
        value = request.ending.encode()
        tried, request.tried = request.tried, True
        won = self._coordinator.write({STATUS: value}, absent=(STATUS, *request.absent))
        there = value if won else self._coordinator.read(STATUS).get(STATUS)
        self.take(RunIsOurs())  # else the write would have been refused
        if there is not None:
            self.take(StatusSeen(ending_of(there)))
        request.answer.set_result(won or (tried and there == value))
