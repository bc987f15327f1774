"""How a job ends: when it was asked to, with the highest status; or with what user code raised."""

from __future__ import annotations

import threading

import pytest
from jobs import on_any_ranks, run

import taskgraph as tg

PLACES = ("init", "set_epoch", "compute", "committed", "exit")


class Ender(tg.Task):
    """Asks for the end from one place, in one epoch."""

    def __init__(self, place: str | None, status: int, epoch: int, seen: list) -> None:
        self.place, self.status, self.epoch, self.seen = place, status, epoch, seen

    def ask(self, place: str, epoch: int, shutdown) -> None:
        if (place, epoch) == (self.place, self.epoch):
            shutdown(self.status)

    def init(self, framework):
        self.framework = framework
        self.ask("init", self.epoch, framework.shutdown)

    def set_epoch(self, ctx, epoch):
        self.seen.append(epoch)
        self.ask("set_epoch", epoch, ctx.shutdown)
        ctx.compose(lambda ins, outs: self.ask("compute", epoch, ctx.shutdown))

    def committed(self, epoch):
        self.ask("committed", epoch, self.framework.shutdown)

    def exit(self):
        self.ask("exit", self.epoch, self.framework.shutdown)


@on_any_ranks
@pytest.mark.parametrize(("place", "last"), [("init", 0), ("set_epoch", 2), ("compute", 2), ("committed", 3)])
def test_the_end_may_be_asked_for_from_anywhere_and_that_epoch_is_the_last(ranks, place, last):
    seen = []
    tasks = [Ender(None, 0, 0, []), Ender(place, 7, 2, seen), Ender(None, 0, 0, [])]
    assert run(*tasks, ranks=ranks, epochs=None) == 7
    assert seen == list(range(last + 1))


@on_any_ranks
@pytest.mark.parametrize("place", ["committed", "exit"])
def test_a_status_given_after_the_last_epoch_is_refused_and_says_what_to_do(ranks, place):
    tasks = [Ender(None, 0, 0, []), Ender(place, 9, 1, []), Ender(None, 0, 0, [])]
    with pytest.raises(tg.UsageError, match=r"shutdown\(9\) was called after the last epoch.*raise SystemExit"):
        run(*tasks, ranks=ranks, epochs=2)


@on_any_ranks
def test_the_highest_status_wins(ranks):
    tasks = [
        Ender("set_epoch", 3, 1, []),
        Ender("compute", 200, 1, []),
        Ender("compute", 0, 1, []),
        Ender(None, 0, 0, []),
    ]
    assert run(*tasks, ranks=ranks, epochs=None) == 200


@pytest.mark.parametrize("status", [-1, 256, 1.0, True, "1", None])
def test_a_status_is_a_number_that_a_process_may_end_with(status):
    with pytest.raises(tg.UsageError, match="is no integer from 0 to 255"):
        run(Ender("compute", status, 0, []))


@on_any_ranks
@pytest.mark.parametrize("place", PLACES)
def test_an_exception_of_user_code_is_raised_as_it_is(ranks, place):
    class Mine(Exception):
        pass

    def fail(status):
        raise error

    class Failing(Ender):
        def ask(self, place, epoch, shutdown):
            super().ask(place, epoch, fail)

    error = Mine("mine")
    tasks = [Ender(None, 0, 0, []), Failing(place, 0, 1, []), Ender(None, 0, 0, [])]
    with pytest.raises(Mine) as raised:
        run(*tasks, ranks=ranks, epochs=2)
    assert raised.value is error


@on_any_ranks
def test_leaving_by_sys_exit_is_raised_as_it_is(ranks):
    def leave(ins, outs):
        raise SystemExit(3)

    with pytest.raises(SystemExit) as raised:
        run(None, lambda ctx, epoch: ctx.compose(leave), ranks=ranks)
    assert raised.value.code == 3


def test_no_thread_is_left_of_a_job_that_failed():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        run(lambda ctx, epoch: ctx.compose(lambda ins, outs: 1 / 0), None, None, ranks=4)
    assert threading.active_count() == before
