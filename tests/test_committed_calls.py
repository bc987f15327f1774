"""`committed` and `set_epoch` are called in the generation that runs, and in none that is over."""

from __future__ import annotations

PROGRAM = """
import os, sys, time, numpy as np, taskgraph as tg

class Node(tg.Task):
    def init(self, framework):
        self.id = framework.task_id
        self.x = framework.protect("x", np.zeros(1))

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        if self.id < 2 and 9 <= epoch <= 11:
            print("set_epoch", self.id, epoch, flush=True)
        ctx.compose(self.go)

    def go(self, ins, outs):
        self.x += 1
        if self.id == 2 and self.epoch == 11 and not os.path.exists("died"):
            while not os.path.exists("called"):
                time.sleep(0.01)
            open("died", "w").close()
            os.kill(os.getpid(), 9)

    def committed(self, epoch):
        if self.id < 2 and 9 <= epoch <= 11:
            print("committed", self.id, epoch, flush=True)
        if self.id == 0 and epoch == 10 and not os.path.exists("called"):
            open("called", "w").close()
            time.sleep(1)
            print("the other rank is dead", flush=True)

job = tg.Job("floor", num_tasks=3, epochs=14, progress="off")
job.set_task_builder(lambda task: Node())
sys.exit(job.start())
"""


def test_a_rank_that_was_in_user_code_while_another_died_calls_nothing_more_in_that_generation(mpirun, tmp_path):
    done = mpirun.run(PROGRAM, ranks=2, ulfm=True, cwd=tmp_path)
    assert done.status == 0, done
    lines = done.stdout.splitlines()
    at = lines.index("the other rank is dead")
    before, after = lines[:at], lines[at + 1 :]
    assert before[-1] == "committed 0 10"
    assert "committed 1 10" not in before
    assert after.count("committed 1 10") == 1
    assert [after.count(f"set_epoch {task} 11") for task in (0, 1)] == [1, 1]
