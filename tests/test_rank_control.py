"""What a rank makes of an exception of its own."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from taskgraph.run.checkpoints.gate import Gate
from taskgraph.run.rank.control import RankControl
from taskgraph.run.worker.control import JobEnded


def control(*, launcher_gone: bool) -> tuple[RankControl, Mock, Any]:
    sidecar, observer = Mock(), Mock()
    sidecar.ask_end.return_value.result.return_value = True
    inbox = Mock()
    rank = RankControl(1, sidecar, inbox, Mock(), observer, Mock(), Mock(), Mock(), lambda: launcher_gone, Gate(1))
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
