"""What a person sees: progress that never holds the job up, and one clear word for a failure."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import logging
import os
import subprocess
import sys
import threading

import pytest
from jobs import job_of

import taskgraph as tg
from taskgraph.plan.decision import start
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Tombstone
from taskgraph.plan.layout import Layout
from taskgraph.report import Progress, Reporter, failure
from taskgraph.report.pace import Pace
from taskgraph.report.progress import BAR_EVERY_S, LINE_EVERY_S
from taskgraph.report.recovery import recovery, survival
from taskgraph.run.rank.timeline import Recovered, Survived, Timeline


class Clock:
    """Time that passes only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def pipe():
    """Make a pipe as a launcher holds one: the reading end, and the writing end as a text stream."""
    reader, writer = os.pipe()
    with (
        contextlib.suppress(BrokenPipeError),  # what is left in the sink is of no interest
        open(writer, "w", buffering=1) as sink,
        open(reader, "rb", buffering=0) as source,
    ):
        yield source, sink


def last_line(stream):
    return stream.getvalue().split("\r")[-1]


def test_the_bar_says_the_name_how_far_the_job_is_and_how_fast(clock, stream):
    progress = Progress("bar", name="digits", stream=stream, clock=clock)
    progress.update(10, 200)
    clock.now += 2
    progress.update(60, 200)
    assert all(word in last_line(stream) for word in ("digits", "60/200", "25.0 epochs/s"))


def test_the_bar_stays_in_one_line_whatever_happens(clock, stream):
    progress = Progress("bar", name="a name with [brackets]", stream=stream, clock=clock)
    for epoch in range(50):
        clock.now += 1
        progress.update(epoch, 50)
    assert "\n" not in stream.getvalue()
    assert "[brackets]" in last_line(stream)


def test_the_bar_hides_no_cursor_that_a_killed_rank_would_leave_hidden(clock, stream):
    progress = Progress("bar", stream=stream, clock=clock)
    progress.update(1, 2)
    assert "\x1b[?25l" not in stream.getvalue()


def test_the_bar_is_drawn_ten_times_a_second_however_often_it_is_fed(clock, stream):
    progress = Progress("bar", stream=stream, clock=clock)
    for epoch in range(1000):
        progress.update(epoch, 1000)
    assert stream.getvalue().count("\r") == 1
    clock.now += BAR_EVERY_S
    progress.update(1000, 1000)
    assert stream.getvalue().count("\r") == 2


def test_closing_draws_the_last_epoch_and_ends_the_line(clock, stream):
    progress = Progress("bar", stream=stream, clock=clock)
    for epoch in range(1, 101):
        progress.update(epoch, 100)
    progress.close()
    assert "100/100" in last_line(stream)
    assert stream.getvalue().endswith("\n")


def test_a_bar_works_without_a_known_end(clock, stream):
    progress = Progress("bar", stream=stream, clock=clock)
    progress.update(7)
    assert "7/?" in last_line(stream)


def test_lines_come_every_ten_seconds_and_not_before(clock, stream):
    progress = Progress("lines", stream=stream, clock=clock)
    for second in range(26):
        progress.update(1000 + second * 40, 5000)
        clock.now += 1
    progress.close()
    assert stream.getvalue().splitlines() == ["epoch 1400 of 5000", "epoch 1800 of 5000, 40.0 epochs/s"]


def test_a_line_names_the_job_and_leaves_out_what_nobody_knows(clock, stream):
    progress = Progress("lines", name="heat", stream=stream, clock=clock)
    clock.now += LINE_EVERY_S
    progress.update(12)
    assert stream.getvalue() == "heat: epoch 12\n"


@pytest.mark.parametrize("mode", ["lines", "off"])
def test_a_short_job_without_a_terminal_writes_nothing(mode, stream):
    progress = Progress(mode, stream=stream)
    for epoch in range(100):
        progress.update(epoch, 100)
    progress.close()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("mode", ["bar", "lines", "off"])
def test_nothing_is_written_by_a_job_that_never_began_nor_after_the_end(mode, clock, stream):
    progress = Progress(mode, stream=stream, clock=clock)
    progress.close()
    clock.now += LINE_EVERY_S
    progress.update(1, 2)
    progress.close()
    assert stream.getvalue() == ""


def test_a_stream_that_fails_ends_the_progress_and_not_the_job(clock, pipe):
    source, sink = pipe
    source.close()
    progress = Progress("bar", stream=sink, clock=clock)
    for epoch in range(3):
        clock.now += 1
        progress.update(epoch, 3)
    progress.close()


def test_a_closed_stream_ends_the_progress_and_not_the_job(clock, stream):
    progress = Progress("bar", stream=stream, clock=clock)
    stream.close()
    progress.update(1, 3)
    progress.close()


class Tee:
    """What a program may put in the place of a stream: it has no descriptor, and fails in its own way."""

    def __init__(self, error=None):
        self.error, self.text = error, ""

    def write(self, text):
        if self.error is not None:
            raise self.error
        self.text += text

    def flush(self):
        pass


def test_a_stream_without_a_descriptor_is_written_to(clock):
    tee = Tee()
    progress = Progress("lines", stream=tee, clock=clock)
    clock.now += LINE_EVERY_S
    progress.update(1, 3)
    assert tee.text == "epoch 1 of 3\n"


def test_a_stream_that_fails_in_a_way_of_its_own_ends_the_progress_and_not_the_job(clock, monkeypatch):
    tee = Tee(KeyError("no such log"))
    progress = Progress("bar", stream=tee, clock=clock)
    progress.update(1, 3)
    progress.close()
    monkeypatch.setattr(sys, "stderr", tee)
    config = tg.Job("failing", 1, progress="off").config
    Reporter(config, None).failed(Ending(status=1, message="boom"))


def test_the_bar_of_a_job_in_one_process_comes_to_its_end(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    job = job_of(lambda ctx, epoch: ctx.compose(lambda ins, outs: None), epochs=3, progress="bar")
    assert job.start() == 0
    assert "3/3" in last_line(stream)


def test_a_pipe_that_nobody_empties_is_not_waited_for(clock, pipe):
    _, sink = pipe
    fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 4096)
    progress = Progress("bar", stream=sink, clock=clock)

    def feed():
        for epoch in range(200):  # far more than the pipe holds
            clock.now += 1
            progress.update(epoch, 200)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    feeder.join(timeout=30)
    assert not feeder.is_alive()


def test_threads_may_feed_it_together(stream):
    progress = Progress("bar", stream=stream)

    def feed():
        for epoch in range(501):
            progress.update(epoch, 500)

    feeders = [threading.Thread(target=feed) for _ in range(4)]
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join(timeout=30)
    progress.close()
    assert "500/500" in last_line(stream)


def test_rich_is_imported_only_when_a_bar_is_drawn():
    code = "import sys; from taskgraph.report import Progress; Progress('lines').close(); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_pace_is_that_of_the_last_seconds_not_of_the_whole_job():
    pace = Pace()
    for second in range(60):
        pace.note(second, second)
    for second in range(60, 91):
        pace.note(second, 60 + (second - 60) * 5)
    assert str(pace) == "5.0 epochs/s"


def test_pace_of_slow_epochs_is_in_seconds_an_epoch():
    pace = Pace()
    pace.note(0, 0)
    pace.note(50, 4)
    assert str(pace) == "12.5 s an epoch"


def test_pace_is_silent_when_nothing_moves_and_starts_anew_when_the_job_resumed_from_before():
    pace = Pace()
    pace.note(0, 100)
    pace.note(5, 100)
    assert str(pace) == ""
    pace.note(6, 90)
    assert str(pace) == ""
    pace.note(8, 110)
    assert str(pace) == "10.0 epochs/s"


def test_a_failure_is_its_traceback_and_then_one_line_that_says_where():
    ending = Ending(
        status=1,
        message="ValueError: boom",
        details="Traceback (most recent call last):\n  ...\nValueError: boom\n",
        rank=2,
        task=5,
        epoch=17,
        channel="5 -> 1 'grad'",
    )
    *traceback, last = failure(ending).splitlines()
    assert traceback == ending.details.splitlines()
    assert last == "taskgraph: rank 2, task 5, epoch 17, channel 5 -> 1 'grad': ValueError: boom (status 1)"


def test_a_failure_stays_one_line_though_the_message_has_several():
    assert failure(Ending(status=3, message="one\n  two", task=1)) == "taskgraph: task 1: one two (status 3)"


def test_a_failure_that_nobody_explained_still_gives_its_status():
    assert failure(Ending(status=4)) == "taskgraph: the job ended (status 4)"


def test_a_job_that_ends_well_has_nothing_to_say():
    assert failure(Ending(status=0)) == ""


def before_and_after():
    before = start({0: "n1", 1: "n1", 2: "n2"}, Layout(((0, 1), (1, 2), (2, 0))))
    after = dataclasses.replace(
        start({0: "n1", 2: "n2"}, Layout(((0, 2), (2, 0), (2, 0)))), generation=1, boundary=10, dead=(1,)
    )
    return before, after


def test_a_recovery_is_one_line_that_says_who_why_who_takes_over_and_how_long_it_took():
    before, after = before_and_after()
    tombstone = Tombstone((1,), Evidence.PROCESS, "the keeper of host n1", "pid 7 killed by SIGSEGV", 100.0)
    recovered = Recovered(
        before=before, decision=after, tombstones=(tombstone,), known_s=0.0012, agreed_s=0.006, restored_s=0.0101
    )
    assert recovery(recovered) == (
        "taskgraph: rank 1 on host n1 (task 1) lost, its process ended: pid 7 killed by SIGSEGV, says the keeper of "
        "host n1; rank 2 takes over task 1; epoch 10 is run again by 2 ranks as generation 1, 10.1 ms after the death "
        "(known 1.2, agreed 6.0)"
    )


def test_a_job_that_lost_ranks_sums_up_at_its_end():
    assert survival(Survived(50, (2, 0), 2, 0.044)) == (
        "taskgraph: 50 epochs, 2 failures survived (ranks 2 and 0 lost), 0.04 s of time lost"
    )


def test_phases_are_counted_from_the_death_and_the_loss_to_where_the_job_was_before(caplog):
    before, after = before_and_after()
    timeline = Timeline(0, before)
    timeline.heard(Tombstone((1,), Evidence.PROCESS, "the keeper of host n1", at=100.0), 100.25)
    recovered = timeline.resumed(after, (10, 99.5), agreed_at=100.5, now=101.0)
    assert (recovered.known_s, recovered.agreed_s, recovered.restored_s) == (0.25, 0.5, 1.0)
    timeline.epoch(10, 101.0)
    assert timeline.is_behind
    with caplog.at_level(logging.INFO):
        timeline.epoch(11, 103.0)
    assert "phase=committed ms=3000.0" in caplog.text
    assert not timeline.is_behind
    assert timeline.survived(12) == Survived(12, (1,), 1, 1.5)


def test_a_clock_that_goes_ahead_on_another_host_makes_no_phase_negative():
    before, after = before_and_after()
    timeline = Timeline(0, before)
    timeline.heard(Tombstone((1,), Evidence.LEASE, "the keeper of host n2", at=999.0), 100.0)
    recovered = timeline.resumed(after, None, agreed_at=100.0, now=100.5)
    assert (recovered.known_s, recovered.agreed_s, recovered.restored_s) == (0.0, 0.0, 0.5)


def test_what_is_lost_counts_until_the_job_is_where_it_was_also_when_it_is_thrown_back_twice():
    before, after = before_and_after()
    timeline = Timeline(0, before)
    timeline.resumed(after, (12, 90.0), agreed_at=100.0, now=100.5)
    timeline.epoch(10, 101.0)
    timeline.resumed(after, (10, 101.0), agreed_at=102.0, now=102.5)
    for epoch, now in ((10, 103.0), (11, 104.0)):
        timeline.epoch(epoch, now)
        assert timeline.is_behind
    timeline.epoch(12, 105.0)
    assert not timeline.is_behind
    assert timeline.survived(13).lost_s == 15.0
