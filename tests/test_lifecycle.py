"""The table of a unit: what it does when it hears of something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.errors import GraphError
from taskgraph.ids import ChannelId
from taskgraph.plan import lifecycle
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import Do, State, Unit, step

ENDING = Ending(status=0)
EVENTS: list[lifecycle.Event] = [
    lifecycle.RunIsOurs(),
    lifecycle.RunIsAbsent(),
    lifecycle.RunIsAnothers("f00"),
    lifecycle.StatusSeen(ENDING),
    lifecycle.EndAsked(ENDING),
    lifecycle.UnitFailed(ENDING),
    lifecycle.EtcdAway("refused"),
    lifecycle.EtcdBack(),
]
RANK = Unit(run="abc", host="n1", rank=0)
KEEPER = Unit(run="abc", host="n1")

stories = st.lists(st.sampled_from(EVENTS), max_size=30)
units = st.sampled_from([RANK, KEEPER])


def play(unit: Unit, story: list[lifecycle.Event]) -> list[tuple[State, lifecycle.Event, tuple[Do, ...], State]]:
    state = lifecycle.begin(unit)
    scenes = []
    for event in story:
        after, orders = step(state, event)
        scenes.append((state, event, orders, after))
        state = after
    return scenes


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_the_table_knows_every_event_in_every_state(state: State, event: lifecycle.Event) -> None:
    step(state, event)


def test_what_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        step(State.RUNNING, "status")  # type: ignore[arg-type]


@given(units, stories)
def test_an_ending_is_delivered_at_most_once(unit: Unit, story: list[lifecycle.Event]) -> None:
    delivered = [scene for scene in play(unit, story) if Do.DELIVER in scene[2]]
    assert len(delivered) <= 1


@given(units, stories)
def test_a_job_is_over_exactly_when_its_ending_was_delivered(unit: Unit, story: list[lifecycle.Event]) -> None:
    for before, _, orders, after in play(unit, story):
        assert (Do.DELIVER in orders) == (after is State.OVER and before is not State.OVER)


@given(units, stories)
def test_what_is_delivered_comes_with_an_ending(unit: Unit, story: list[lifecycle.Event]) -> None:
    for _, event, orders, _ in play(unit, story):
        if Do.DELIVER in orders:
            assert isinstance(event.ending, Ending)  # type: ignore[union-attr]


@given(units, stories)
def test_the_words_are_set_after_the_ending_is_delivered_never_before(unit: Unit, story: list[lifecycle.Event]) -> None:
    for _, _, orders, _ in play(unit, story):
        assert (Do.SET_WORDS in orders) == (Do.DELIVER in orders)
        if Do.DELIVER in orders:
            assert orders.index(Do.DELIVER) < orders.index(Do.SET_WORDS)


@given(units, stories)
def test_every_request_to_end_is_written_or_refused(unit: Unit, story: list[lifecycle.Event]) -> None:
    for before, event, orders, _ in play(unit, story):
        if isinstance(event, lifecycle.EndAsked):
            assert orders == ((Do.ANSWER_LOST,) if before is State.OVER else (Do.WRITE_STATUS,))


@given(units, stories)
def test_an_outage_ends_nothing(unit: Unit, story: list[lifecycle.Event]) -> None:
    for before, event, _, after in play(unit, story):
        if isinstance(event, lifecycle.EtcdAway | lifecycle.EtcdBack):
            assert after is before


@given(stories)
def test_a_keeper_takes_nothing_of_another_run_for_its_own(story: list[lifecycle.Event]) -> None:
    for before, event, orders, after in play(KEEPER, story):
        if before is State.JOINING and not isinstance(event, lifecycle.RunIsOurs | lifecycle.UnitFailed):
            assert after is State.JOINING
            assert Do.DELIVER not in orders


@given(units, stories)
def test_what_is_gone_from_etcd_ends_nothing_and_a_unit_that_runs_does_without(
    unit: Unit, story: list[lifecycle.Event]
) -> None:
    for before, event, orders, after in play(unit, story):
        assert (Do.LOSE_ETCD in orders) == (isinstance(event, lifecycle.RunIsAbsent) and before is State.RUNNING)
        if isinstance(event, lifecycle.RunIsAbsent):
            assert after is before


def test_a_rank_whose_run_is_replaced_ends_with_a_failure_that_says_so() -> None:
    event = lifecycle.RunIsAnothers("f00")
    state, orders = step(lifecycle.begin(RANK), event)
    assert state is State.OVER
    assert Do.DELIVER in orders
    assert event.ending.status != 0
    assert "f00" in event.ending.message


def test_a_graph_that_does_not_fit_ends_the_job_with_task_epoch_and_channel() -> None:
    ending = lifecycle.failure(RANK, GraphError("no such in channel", task=3, epoch=7, channel=ChannelId(3, 4, "w")))
    assert ending.describe() == "task 3, epoch 7, channel 3 -> 4 'w': no such in channel"


def test_any_other_error_of_a_unit_ends_the_job_with_its_traceback() -> None:
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        ending = lifecycle.failure(RANK, error)
    assert ending.status != 0
    assert "rank 0" in ending.message
    assert "ZeroDivisionError: by zero" in ending.message
    assert "Traceback" in ending.details
