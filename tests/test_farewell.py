"""How a rank leaves that hears from another that the job has ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.plan.decision import start
from taskgraph.plan.layout import Layout
from taskgraph.plan.member import Member
from taskgraph.plan.messages import Farewell, Topic
from taskgraph.plan.orders import Leave, Send
from taskgraph.run.control import JobEnded
from taskgraph.run.worker import Left

farewells = st.builds(Farewell, st.integers(0, 255), st.booleans(), st.booleans())


@given(farewells)
def test_it_leaves_the_same_way_and_passes_it_on_as_it_was(farewell: Farewell) -> None:
    decision = start({0: "a", 1: "b", 2: "c"}, Layout(((0,), (1,), (2,))))
    member = Member(0, "a", epochs=9, every=1)
    member.adopt(decision, {0: 0}, [])
    *sent, last = member.receive(1, Topic.LEAVE, farewell.encode())
    assert last == Leave(farewell)
    assert sent
    for order in sent:
        assert isinstance(order, Send)
        assert Farewell.decode(order.data) == farewell


def test_the_end_of_a_job_in_order_is_its_status():
    assert Left(Farewell(3)).status() == 3


@pytest.mark.parametrize("lost", [False, True])
def test_a_failure_is_none_and_what_is_only_lost_is_left_to_the_next_launch(lost):
    with pytest.raises(JobEnded) as ended:
        Left(Farewell(1, failed=True, lost=lost)).status()
    assert (ended.value.ending.status, ended.value.ending.lost) == (1, lost)
