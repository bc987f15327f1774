"""What a rank does with messages of another generation than its own, over real MPI."""

from __future__ import annotations

from pathlib import Path

PROGRAM = Path(__file__).parent / "programs" / "generations.py"


def test_what_is_late_is_drained_so_that_its_sender_goes_on_and_never_delivered(mpirun):
    done = mpirun.run(PROGRAM, ranks=2, args=["old"])
    assert sorted(done.stdout.splitlines()) == ["rank 0: sent True", "rank 1: got [7.0, 7.0, 7.0] strays [0, 0]"]


def test_what_is_early_is_kept_in_order_until_its_generation_is_adopted(mpirun):
    done = mpirun.run(PROGRAM, ranks=2, args=["early"])
    assert sorted(done.stdout.splitlines()) == [
        f"rank 1: got {3.0 * (1 << 22)} controls [b'a', b'b']",
        "rank 1: strays [2, 2, 2] controls 0",
    ]


def test_a_peer_that_died_is_told_once_and_nothing_waits_for_it(mpirun):
    done = mpirun.run(PROGRAM, ranks=2, args=["lost"], ulfm=True)
    assert done.stdout.splitlines() == ["rank 0: lost [1] writable True"]


def test_the_abort_word_ends_waits_of_older_generations_only(mpirun):
    done = mpirun.run(PROGRAM, ranks=2, args=["aborted"])
    assert done.stdout.splitlines() == ["rank 0: aborted", "rank 0: goes on"]
