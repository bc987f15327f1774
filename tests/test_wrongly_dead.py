"""A rank that was declared dead and is not does no harm, and leaves."""

from __future__ import annotations

import os
import signal

from fates import LIMIT_S, PROGRAM, assert_right


def test_a_rank_that_was_stopped_and_replaced_leaves_when_it_goes_on(mpirun):
    job = mpirun.start(PROGRAM, ranks=3, args=[60, 0.1, f"1:5:signal={signal.SIGSTOP}"], ulfm=True)
    job.wait_for_line("phase=restored", LIMIT_S)
    os.kill(job.ranks()[1], signal.SIGCONT)
    job.wait_for_line("this rank leaves: it was declared dead", LIMIT_S)
    done = job.finish(LIMIT_S)
    assert_right(done, 60)
    assert "rank 1 status" not in done.stdout
