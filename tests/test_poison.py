"""A task that kills whoever runs it ends the job with its name, rather than cost every rank."""

from __future__ import annotations

import re

from taskgraph.plan.accusations import Accusations
from taskgraph.plan.evidence import Evidence, Tombstone, Work
from taskgraph.plan.poison import poisoned
from taskgraph.testing import kill_at


def died(rank, working, at=0.0, detail="pid 7 killed by SIGSEGV"):
    return Tombstone((rank,), Evidence.PROCESS, "the keeper of host a", detail, at, working)


def test_three_deaths_of_one_task_in_one_epoch_end_the_job_and_two_do_not():
    deaths = [died(5, Work(2, 3), 1.0), died(6, Work(2, 3), 3.0, "pid 8 killed by SIGBUS"), died(0, Work(2, 3), 2.0)]
    assert poisoned(deaths[:2]) is None
    end = poisoned(deaths)
    assert end is not None
    assert (end.status, end.task, end.epoch) == (1, 2, 3)
    assert "task 2 is poisoned: ranks 5, 6, 0 died" in end.message
    assert "the last so: pid 8 killed by SIGBUS" in end.message


def test_deaths_of_other_tasks_in_other_epochs_or_outside_user_code_do_not_add_up():
    some = [Work(2, 3), Work(2, 3), Work(2, 4), Work(1, 3), None, None, None]
    assert poisoned(died(rank, working) for rank, working in enumerate(some)) is None


def test_one_event_that_takes_several_ranks_is_one_death():
    tombstone = Tombstone((1, 2, 3), Evidence.PROCESS, "the keeper of host a", working=Work(2, 3))
    assert poisoned([tombstone] * 3) is None


def test_what_mpi_reports_waits_for_who_saw_the_process():
    accusations = Accusations("the sidecar of rank 0")
    assert accusations.hold([1, 2], (), 5.0) == [1, 2]
    assert accusations.hold([1, 3], (), 6.0) == [3]
    assert accusations.are_pending
    (write,) = accusations.release(1, {2})  # of 2 etcd knows by now
    expected = Tombstone((1, 3), Evidence.PEER, "the sidecar of rank 0", "", 5.0)
    assert {key: Tombstone.decode(value) for key, value in write.entries.items()} == {
        "dead/1": expected,
        "dead/3": expected,
    }
    assert accusations.release(3, {2}) == []


SEGFAULTS = """
import ctypes, sys, numpy as np, taskgraph as tg

class Node(tg.Task):
    def init(self, framework):
        self.id = framework.task_id
        self.x = framework.protect("x", np.zeros(4))

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        ctx.compose(self.give, outs=ctx.outbound((self.id + 1) % 4, "x"))
        ctx.compose(self.take, ctx.inbound((self.id - 1) % 4, "x"))

    def give(self, ins, outs):
        outs[0].put(self.x)

    def take(self, ins, outs):
        self.x += ins[0].get() + 1
        if self.id == 2 and self.epoch == 3:
            ctypes.string_at(0)

job = tg.Job("poisoned", num_tasks=4, epochs=8, backups=1, progress="off")
job.set_task_builder(lambda task: Node())
status = job.start()
print("status", status, flush=True)
sys.exit(status)
"""


def test_a_task_that_always_crashes_in_an_epoch_ends_the_job_with_its_name(mpirun):
    done = mpirun.run(SEGFAULTS, ranks=6, ulfm=True, timeout_s=90)
    lines = [line for line in done.stderr.splitlines() if "poisoned" in line]
    assert len(lines) == 1, done
    assert re.match(r"taskgraph: task 2, epoch 3: task 2 is poisoned: ranks \d, \d, \d died", lines[0]), done
    assert "killed by SIGSEGV" in lines[0], done
    assert done.stdout.split() == ["status", "1"] * 3, done


ALONE = """
import sys, numpy as np, taskgraph as tg

class Node(tg.Task):
    def init(self, framework):
        self.x = framework.protect("x", np.zeros(1))

    def set_epoch(self, ctx, epoch):
        ctx.compose(self.step)

    def step(self, ins, outs):
        self.x += 1

    def exit(self):
        print("result", self.x[0], flush=True)

job = tg.Job("alone", num_tasks=1, epochs=6, progress="off")
job.set_task_builder(lambda task: Node())
sys.exit(job.start())
"""


def test_injected_deaths_are_not_blamed_on_the_task(mpirun):
    faults = "; ".join(str(kill_at(rank, 3)) for rank in (0, 1, 2))
    done = mpirun.run(ALONE, ranks=4, env={"TASKGRAPH_FAULTS": faults}, ulfm=True, timeout_s=90)
    assert done.stderr.count("fault injected") == 3, done
    assert done.stdout.split() == ["result", "6.0"], done
