"""How a rank leaves that hears from another that the job has ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.plan.decision import start
from taskgraph.plan.ending import Ending
from taskgraph.plan.layout import Layout
from taskgraph.plan.member import Member
from taskgraph.plan.messages import Topic
from taskgraph.plan.orders import Leave, Send
from taskgraph.run.worker.control import JobEnded
from taskgraph.run.worker.worker import Left

endings = st.builds(Ending, status=st.integers(0, 255), message=st.text(), lost=st.booleans())


@given(endings)
def test_it_leaves_the_same_way_and_passes_it_on_as_it_was(ending: Ending) -> None:
    decision = start({0: "a", 1: "b", 2: "c"}, Layout(((0,), (1,), (2,))))
    member = Member(0, "a", epochs=9, every=1)
    member.adopt(decision, {0: 0}, [])
    *sent, last = member.receive(1, Topic.LEAVE, ending.encode())
    assert last == Leave(ending)
    assert sent
    for order in sent:
        assert isinstance(order, Send)
        assert Ending.decode(order.data) == ending


def test_the_end_of_a_job_in_order_is_its_status():
    assert Left(Ending(status=3)).status() == 3


@pytest.mark.parametrize("lost", [False, True])
def test_a_failure_is_told_alike_on_every_rank_whichever_way_it_hears_of_it(lost):
    failure = Ending(status=1, message="all copies of task 2 are lost", lost=lost, task=2)
    with pytest.raises(JobEnded) as ended:
        Left(failure).status()
    assert ended.value.ending == failure
