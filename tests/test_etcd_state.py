"""When a unit that cannot reach etcd takes the end of the job from its host."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskgraph.backends.words import OVER, AbortWords
from taskgraph.run.unit.etcd_state import OVER_S, EtcdState, Patience


def test_that_the_job_is_over_on_this_host_ends_it_here_only_after_a_while(tmp_path: Path) -> None:
    words = AbortWords.create(tmp_path / "words", 1)
    state = EtcdState(Patience(own=True, lost_after_s=60.0), words)
    state.set_away(True, 100.0)
    words.set_all(OVER)  # by success, perhaps: the keeper reached etcd again before this unit did
    assert state.give_up(101.0, failing=True) is None
    assert state.give_up(101.0 + OVER_S / 2, failing=True) is None
    ending = state.give_up(101.1 + OVER_S, failing=False)
    assert ending is not None
    assert ending.status == 1


def test_etcd_that_is_back_in_time_says_how_the_job_ended(tmp_path: Path) -> None:
    words = AbortWords.create(tmp_path / "words", 1)
    state = EtcdState(Patience(own=True, lost_after_s=60.0), words)
    state.set_away(True, 100.0)
    words.set_all(OVER)
    assert state.give_up(101.0, failing=True) is None
    state.set_away(False, 102.0)
    assert state.give_up(102.0 + OVER_S, failing=True) is None


@pytest.mark.parametrize("own", [True, False])
def test_that_the_jobs_own_etcd_is_gone_is_no_verdict_on_a_job_that_is_launched_again(own: bool) -> None:
    state = EtcdState(Patience(own=own, lost_after_s=60.0))
    state.set_away(True, 100.0)
    ending = state.give_up(161.0, failing=True)
    assert ending is not None
    assert ending.lost == own
