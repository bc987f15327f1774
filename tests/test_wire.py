"""The wire over real MPI: it waits without the GIL, ends when told to, and believes nothing that does not add up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "programs" / "wires.py"


@pytest.fixture
def scenario(mpirun):
    """Run one scenario of `programs/wires.py` on two ranks, and return the lines printed."""

    def run(name: str) -> list[str]:
        env = {"OMPI_MCA_btl": "^ofi"}  # as a job of taskgraph's sets it itself: it spares a start of MPI a second
        env |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(PROGRAM.parent.parent), os.environ.get("PYTHONPATH")]))}
        done = mpirun.run(PROGRAM, ranks=2, args=[name], env=env)
        assert done.status == 0, done
        return sorted(done.stdout.splitlines())

    return run


def test_a_python_thread_takes_turns_while_the_wire_waits(scenario):
    assert scenario("a_python_thread_takes_turns") == ["turns 10"]


def test_the_abort_word_ends_every_wait_at_once_and_no_user_code_swallows_it(scenario):
    assert scenario("the_abort_word_ends_a_wait") == [
        "finish_sends ended in time: True",
        "left 0",
        "left 0",
        "pump ended in time: True",
    ]


def test_a_message_that_does_not_add_up_is_refused(scenario):
    assert scenario("forged_messages_are_refused") == ["believed []"]


def test_a_payload_of_the_wrong_length_is_refused(scenario):
    refused = scenario("payloads_of_the_wrong_length_are_refused")
    assert len(refused) == 4
    assert "refused: a payload of rank 0 has 99999 bytes where its header announced 100000" in refused


def test_control_messages_keep_their_order_whatever_their_length(scenario):
    assert scenario("control_messages_keep_their_order") == ["in order True", "left 0", "left 0"]


def test_copies_keep_their_order_whatever_their_length(scenario):
    """A copy may be a change of the one before; where that one was overtaken, the whole state had to be sent."""
    assert scenario("copies_keep_their_order") == ["in order True"]


def test_an_urgent_message_in_pieces_outlives_its_generation(scenario):
    assert scenario("an_urgent_message_outlives_its_generation") == ["whole True"]


def test_a_copy_that_waited_behind_the_last_one_of_a_generation_arrives_with_the_next(scenario):
    assert scenario("a_copy_behind_the_last_of_a_generation_arrives") == ["came [b'of the next']"]


def test_nothing_is_left_of_a_wire_after_close(scenario):
    assert scenario("nothing_is_left_after_close") == ["closed"] * 2


def test_a_waiting_rank_uses_little_of_a_core(scenario):
    ((word, used),) = (line.split() for line in scenario("a_waiting_rank_uses_little_of_a_core"))
    assert (word, float(used) < 0.05) == ("used", True), used


def test_an_interrupt_ends_a_wait(scenario):
    assert scenario("an_interrupt_ends_a_wait") == ["interrupted"]


def test_a_long_wait_says_once_that_it_is_idle(scenario):
    assert scenario("an_idle_wait_says_so_once") == ["idle 1"]


def test_an_object_that_cannot_be_unpickled_names_its_channel_and_its_sender(scenario):
    (said,) = scenario("an_object_that_cannot_be_unpickled_is_named")
    assert said.startswith(
        "the object that channel 0 -> 1 1 brought from rank 0 cannot be unpickled: ValueError: invalid literal"
    )
