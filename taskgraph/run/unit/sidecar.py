"""The thread beside the main thread of a rank, and the heart of a keeper: it talks to etcd, so that nobody else has to.

It never touches MPI or user code. `hearing` turns changed keys into events, `job_end` and `recovery` act on them,
`schedule` does what is due; this file gives them turns. One turn is a plain method, so a test needs no thread and no
sleep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future

from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.coordinator import Event as News
from taskgraph.backends.words import OVER, AbortWords
from taskgraph.errors import RunReplaced, RunWiped, TaskgraphError
from taskgraph.ids import Host, Rank
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Work
from taskgraph.plan.lifecycle import EtcdAway, EtcdBack, Event, RunIsAnothers, Unit, UnitFailed
from taskgraph.run.unit.duties import Duty
from taskgraph.run.unit.etcd_state import EtcdState, Patience
from taskgraph.run.unit.hearing import hear, hosts_after
from taskgraph.run.unit.job_end import JobEnd
from taskgraph.run.unit.recovery import Recovery
from taskgraph.run.unit.schedule import RETRY_S, Schedule

log = logging.getLogger(__name__)

TURN_S = 0.5
"""The longest that a turn waits for news, in seconds: what has no event is looked at this often."""
JUMP_S = TURN_S + 1.0
"""A unit that has not run for so long, in seconds, was suspended."""


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
    on_failure
        Called after `on_end`, in the same thread, if the ending that rules is a failure of this thread or of a call
        that was handed to it: then nobody else will print it.
    words
        The abort words of the host: all are set once the job is over.
    duties
        What is to be done from time to time.
    recovery
        What is to be done about failures; None: nothing.
    on_fault
        Called in the thread of the sidecar when it ends by a fault of ours: this process has to go, and the job goes on
        without it. None: a fault ends the job.
    patience
        When to give etcd up; None: never.
    clock
        Seconds, never going back.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        unit: Unit,
        *,
        on_end: Callable[[Ending], None],
        on_failure: Callable[[Ending], None] | None = None,
        words: AbortWords | None = None,
        duties: Sequence[Duty] = (),
        recovery: Recovery | None = None,
        on_fault: Callable[[Exception], None] | None = None,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._coordinator = coordinator
        self._unit = unit
        self._words = words
        self._recovery = recovery
        self._on_fault = on_fault
        self._clock = clock
        self._ran_at = clock()
        self._etcd = EtcdState(patience, words)
        self._end = JobEnd(coordinator, self._etcd, unit, on_end, on_failure, words)
        self._schedule = Schedule(duties, clock)
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
    def has_etcd(self) -> bool:
        """Whether etcd answers and still knows this run."""
        return self._etcd.usable

    @property
    def tombstones(self) -> Collection[Rank]:
        """The ranks that are known to be dead."""
        return () if self._recovery is None else self._recovery.tombstones

    @property
    def wiped(self) -> bool:
        """Whether etcd has lost this run."""
        return self._etcd.wiped

    @property
    def over(self) -> bool:
        """Whether an ending was delivered."""
        return self._end.over

    # What the main thread calls.

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="taskgraph-sidecar", daemon=True)
        self._thread.start()

    def ask_end(self, ending: Ending, absent: Collection[str] = ()) -> Future[bool]:
        """Begin to end the job, unless it has ended, or one of the keys in `absent` is there.

        Returns
        -------
        Future of bool
            True if this ending is the first, and rules; False where another was first. `on_end` is called in both
            cases, with the one that rules. It is tried until `close`, which raises CoordinatorError here.
        """
        answer = self._end.ask(ending, absent)
        if self._finished:  # nobody will look any more
            self._end.refuse_all()
        self._coordinator.wake()
        return answer

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
                if not self._leave_by_fault(error):
                    self._end.fail(error)
        finally:
            self._finish()

    def _leave_by_fault(self, error: Exception) -> bool:
        """Give this unit up for a fault of ours; False where the job has to end: etcd refuses, or nobody is left."""
        if self._on_fault is None or isinstance(error, TaskgraphError) or self.over:
            return False
        if self._unit.rank is not None and self._recovery is not None:
            detail = f"{type(error).__name__}: {error}"
            try:
                if not self._recovery.report_self(self._coordinator, self._unit.rank, str(self._unit), detail):
                    return False
            except Exception as unwritten:  # the end of the process says it too
                log.debug("%s cannot report itself: %s", self._unit, unwritten)
        self._on_fault(error)
        return True

    def _note_time(self) -> None:
        """Find out whether this process, perhaps the whole job, was suspended."""
        now = self._clock()
        if now - self._ran_at > JUMP_S and self._recovery is not None:
            log.info("%s did not run for %.1f s", self._unit, now - self._ran_at)
            self._recovery.suspended()
            self._etcd.suspended(now)
        self._ran_at = now

    def turn(self, timeout_s: float) -> None:
        """Do what is due, then take in what is new, waiting up to `timeout_s` seconds for it."""
        try:
            self._note_time()
            self._do_calls()
            self._end.write()
            wait_s = self._schedule.turn(self._coordinator, self._has_etcd(), timeout_s)
            if self._end.is_asked and not self._etcd.away:
                wait_s = min(wait_s, RETRY_S)
            if (ending := self._etcd.give_up(self._clock(), self._failing)) is not None:
                self._end.end_without_etcd(ending)
            if self._etcd.wiped:
                self._closing.wait(wait_s)
                return
            self._take_in(self._coordinator.news(max(min(wait_s, self._recover()), 0.0)))
            self._recover()
            self._do_calls()
            self._end.write()
        except RunWiped as error:
            self._etcd.lose(str(error))
        except RunReplaced as error:
            self._etcd.wiped = True
            self._end.take(UnitFailed(Ending(status=1, message=str(error))))
        if self.over and self._words is not None:
            self._words.set_all(OVER)  # again: see AbortWords.set

    def _take_in(self, events: Sequence[News]) -> None:
        """Take in what changed in etcd. Where the run is gone, nothing else means anything."""
        self._note_time()
        for news in events:
            self._hosts = hosts_after(self._hosts, news)
            for event in hear(news, self._unit.run):
                self._take(event)
        for news in events:
            if self._recovery is not None and not self._end.joining and not self._etcd.wiped:
                self._recovery.hear(news)

    def _take(self, event: Event) -> None:
        if isinstance(event, RunIsAnothers):
            self._etcd.wiped = not self._end.joining
        elif isinstance(event, EtcdAway | EtcdBack):
            self._etcd.set_away(isinstance(event, EtcdAway), self._clock())
        self._end.take(event)

    @property
    def _failing(self) -> bool:
        return self._end.is_asked or (self._recovery is not None and self._recovery.pending)

    def _recover(self) -> float:
        """Do what failures ask for; return the seconds until they ask again."""
        if self._recovery is None or not self._has_etcd() or self.over:
            return TURN_S
        return self._recovery.turn(self._coordinator)

    def accuse(
        self,
        ranks: Iterable[Rank],
        evidence: Evidence,
        detail: str = "",
        at: float | None = None,
        working: Work | None = None,
    ) -> None:
        """Report ranks as dead, seen at `at` (seconds since 1970; None: now); from any thread."""
        if self._recovery is not None:
            self._recovery.accuse(ranks, evidence, detail, at, working)
            self._coordinator.wake()

    def _do_calls(self) -> None:
        while self._calls:
            function = self._calls.popleft()
            try:
                function()
            except Exception as error:
                self._end.ask_by_error(error)

    def _has_etcd(self) -> bool:
        return self._etcd.usable and not self._end.joining

    def _finish(self) -> None:
        """Do what is left, once; nothing of it may hold the end up."""
        with self._finishing:
            if self._finished:
                return
            self._finished = True
            try:
                self._do_calls()
                self._end.write()
            except Exception as error:
                log.debug("%s leaves something undone: %s", self._unit, error)
            self._schedule.finish(self._coordinator, self._has_etcd())
        self._end.refuse_all()
