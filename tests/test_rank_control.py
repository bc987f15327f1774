"""What a rank makes of an exception of its own, and of the end of the job."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from taskgraph.errors import EpochAborted
from taskgraph.run.checkpoints.gate import Gate
from taskgraph.run.rank import control as rank_control
from taskgraph.run.rank.control import RankControl
from taskgraph.run.worker.control import JobEnded


def control(*, launcher_gone: bool = False, must_write: bool = False) -> tuple[RankControl, Mock, Any]:
    sidecar, observer = Mock(), Mock()
    sidecar.ask_end.return_value.result.return_value = True
    inbox = Mock()
    rank = RankControl(
        1,
        sidecar,
        inbox,
        Mock(),
        observer,
        Mock(),
        Mock(),
        Mock(),
        lambda: launcher_gone,
        Gate(1),
        lambda generation: must_write,
    )
    return rank, sidecar, observer


def test_an_exception_ends_the_job_and_is_told():
    rank, sidecar, observer = control(launcher_gone=False)
    with pytest.raises(JobEnded):
        rank.fail(ValueError("wrong"), 3, 7, 0)
    (ending, _), _ = sidecar.ask_end.call_args
    assert (ending.status, ending.task, ending.epoch) == (1, 3, 7)
    observer.failed.assert_called_once_with(ending)


def test_what_fails_because_the_launcher_is_gone_is_no_error_of_the_application():
    rank, sidecar, observer = control(launcher_gone=True)
    rank.fail(OSError(5, "Input/output error"), 3, 7, 0)
    sidecar.ask_end.assert_not_called()
    observer.failed.assert_not_called()


def away(sidecar: Mock, *, wiped: bool = False) -> None:
    sidecar.has_etcd, sidecar.wiped = False, wiped
    sidecar.call = lambda ask: None  # nothing is answered while etcd is away


def test_without_failures_nobody_waits_for_an_etcd_that_is_away():
    rank, sidecar, _ = control(must_write=False)
    away(sidecar)
    rank.conclude(0, 0)


@pytest.mark.parametrize("has_etcd", [True, False])
def test_where_a_death_is_known_in_the_first_generation_nobody_leaves_before_etcd_has_the_end(monkeypatch, has_etcd):
    monkeypatch.setattr(rank_control, "END_KNOWN_S", 0.01)
    rank, sidecar, _ = control(must_write=True)
    away(sidecar)
    sidecar.has_etcd = has_etcd
    with pytest.raises(EpochAborted):
        rank.conclude(0, 0)


def test_an_etcd_that_was_wiped_is_not_waited_for():
    rank, sidecar, _ = control(must_write=True)
    away(sidecar, wiped=True)
    rank.conclude(0, 0)


def test_an_end_that_etcd_is_slow_to_take_holds_nobody_up_without_failures(monkeypatch):
    monkeypatch.setattr(rank_control, "END_KNOWN_S", 0.01)
    rank, sidecar, _ = control(must_write=False)
    away(sidecar)
    sidecar.has_etcd = True
    rank.conclude(0, 0)
