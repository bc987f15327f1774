"""Somebody wants the job to end in some way: what was asked, and the answer to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from taskgraph.errors import CoordinatorError
from taskgraph.plan.ending import Ending


@dataclass(slots=True, eq=False)
class EndRequest:
    """One wish for an end.

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


def refuse_all(requests: deque[EndRequest], ruling: Ending | None) -> None:
    """Answer all that are left, when nobody will carry them out any more."""
    while requests:
        request = requests.popleft()
        if ruling is not None:
            request.answer_after(ruling)
        else:
            error = CoordinatorError("the sidecar was closed before etcd took the end of the job")
            request.answer.set_exception(error)
