"""Failures on purpose: how they are written down and drawn, and that each hits once, where and whom it says."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskgraph as tg
from taskgraph.plan.faults import Draw, Fault, draw, expand, parse
from taskgraph.testing import exit_at, kill_at, kill_host, kill_keeper, raise_at, stop_at
from taskgraph.testing.proofs import Verdict, judge, read
from taskgraph.trace import PHASES, POINTS
from tests.jobs import job_of

TREE = """
import sys, numpy as np, taskgraph as tg

class Node(tg.Task):
    def init(self, framework):
        self.id = framework.task_id
        self.sums = framework.protect("sums", np.zeros(12))

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        up, down = ctx.neighbors("parents"), ctx.neighbors("children")
        ctx.compose(self.add, ins=ctx.inbound(down, "sum"), outs=ctx.outbound(up, "sum"))

    def add(self, ins, outs):
        self.sums[self.epoch] = self.epoch * self.id + self.sums.sum() / 2 + sum(c.get() for c in ins)
        for out in outs:
            out.put(self.sums[self.epoch])

job = tg.Job("tree", num_tasks=7, epochs=12, backups=1)
job.set_task_builder(lambda task: Node())
job.add_topology(tg.topology.Tree(fanout=2))
sys.exit(job.start())
"""

# The same sums, by a task that asks for its context and its channels once, and uses them ever after.
KEEPING = TREE.replace(
    "    def set_epoch(self, ctx, epoch):\n",
    """    def set_epoch(self, ctx, epoch):
        if epoch and hasattr(self, "ins"):
            ctx.compose(self.add_kept, ins=self.ins, outs=self.outs)
            return
        self.ctx, up, down = ctx, ctx.neighbors("parents"), ctx.neighbors("children")
        self.ins, self.outs = ctx.inbound(down, "sum"), ctx.outbound(up, "sum")
        ctx.compose(self.add_kept, ins=self.ins, outs=self.outs)

    def add_kept(self, ins, outs):
        self.epoch = self.ctx.epoch
        self.add(self.ins, self.outs)

    def compose_anew(self, ctx, epoch):
""",
)

points = st.sampled_from([*PHASES, *POINTS])
faults = st.builds(
    Fault,
    action=st.sampled_from(["kill", "stop", "exit", "kill-host", "kill-keeper"]),
    rank=st.integers(0, 99),
    epoch=st.integers(0, 10**6),
    or_later=st.booleans(),
    phase=points,
    nth=st.integers(1, 9),
)


@given(st.lists(faults, max_size=4))
def test_faults_are_read_as_they_are_written(some):
    assert parse("; ".join(map(str, some))) == some


def test_a_driver_may_be_given_faults_as_values_or_as_text():
    one, other = kill_at(rank=3, epoch=5), kill_host(1, epoch=7, phase="send.middle", or_later=True)
    job = tg.Job("faulty", 2, faults=[one, other])
    assert job.config.faults == "kill rank=3 epoch=5 phase=compute; kill-host host=1 epoch=7+ phase=send.middle"
    assert tg.Job("faulty", 2, faults=one).config.faults == str(one)
    assert tg.Job("faulty", 2, faults="seed=17 kills=3 hosts=yes").config.faults == "seed=17 kills=3 hosts=yes"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kill", "needs a rank or a host"),
        ("kill rank=1 host=2", "needs a rank or a host"),
        ("kill host=2", "is one of a rank"),
        ("slay rank=1", "fault 'slay' is none of kill"),
        ("kill rank=one", "rank='one'"),
        ("kill rank=1 epoch=-1", "epoch=-1"),
        ("kill rank=1 phase=lunch", "phase='lunch' is none of compute, send"),
        ("kill rank=1 nth=0", "nth=0"),
        ("kill rank=1 when=5", "when=5"),
        ("raise rank=1 phase=commit", "in the place of user code"),
        ("rank=1 epoch=5", "is no fault"),
        ("seed=1 ranks=2", "ranks=2"),
    ],
)
def test_a_fault_that_means_nothing_is_refused_before_the_job_starts(text, said):
    with pytest.raises(tg.UsageError) as caught:
        tg.Job("faulty", 2, faults=text)
    assert said in str(caught.value)


def test_a_fault_meets_its_epoch_or_later_ones_if_told_so_and_any_point_of_its_phase():
    assert kill_at(1, 5, "send").meets("send.put", 5)
    assert kill_at(1, 5, "send.put").meets("send.put", 5)
    assert not kill_at(1, 5, "send.put").meets("send.middle", 5)
    assert not kill_at(1, 5, "send").meets("send.put", 6)
    assert kill_at(1, 5, "send", or_later=True).meets("send.put", 6)
    assert kill_at(1, 5, "recovery").meets("recovery.left", 9)
    assert not kill_at(1, 5, "recovery").meets("recovery.left", 4)


@given(
    st.integers(),
    st.lists(st.integers(1, 3), min_size=1, max_size=5),
    st.integers(1, 20),
    st.integers(1, 5),
    st.booleans(),
)
def test_what_is_drawn_by_seed_leaves_a_rank_and_is_the_same_again(seed, sizes, epochs, kills, hosts):
    host_of = [f"h{host}" for host, size in enumerate(sizes) for _ in range(size)]
    some = draw(random.Random(seed), host_of, epochs, kills, hosts=hosts)
    assert some == draw(random.Random(seed), host_of, epochs, kills, hosts=hosts)
    assert len(some) <= kills
    gone = set()
    for fault in some:
        host = host_of[fault.rank] if fault.rank is not None else f"h{fault.host}"
        gone |= {r for r, h in enumerate(host_of) if (h == host if fault.action == "kill-host" else r == fault.rank)}
    assert len(gone) < len(host_of)
    assert all(fault.epoch < epochs for fault in some)
    assert all(fault.action == "kill" for fault in some) or hosts
    assert not (some and some[0].phase.startswith("recovery"))


def test_a_seed_becomes_faults_once_the_ranks_are_known():
    drawn = expand(parse("seed=17 kills=3; kill rank=0 epoch=2"), ["a", "a", "b", "b"], 10)
    assert [fault.action for fault in drawn] == ["kill"] * 4
    assert drawn == expand([Draw(17, 3), kill_at(0, 2)], ["a", "a", "b", "b"], 10)


def test_failures_are_not_injected_into_a_job_of_one_process():
    job = job_of(None, faults=[kill_at(0, 0)])
    with pytest.raises(tg.UsageError, match="under mpirun"):
        job.start()
    with pytest.raises(tg.UsageError, match="under mpirun"):
        tg.testing.run(job, ranks=2)


def run(mpirun, directory, *some, hosts=1, ranks=4, program=TREE):
    """Run the tree with these faults, and return the proof and what was printed."""
    directory.mkdir()
    env = {
        "TASKGRAPH_FAULTS": "; ".join(map(str, some)),
        "TASKGRAPH_PROOF": str(directory),
        "TASKGRAPH_RANKS_PER_HOST": str(ranks // hosts),
    }
    done = mpirun.run(program, ranks=ranks, env=env, ulfm=True, timeout_s=120)
    return read(directory), done


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """Return the proof of a run without failures."""
    from taskgraph.testing import spmd

    directory = tmp_path_factory.mktemp("without") / "proof"
    directory.mkdir()
    spmd.run(TREE, ranks=4, env={"TASKGRAPH_PROOF": str(directory)}, ulfm=True, timeout_s=120)
    return read(directory)


@pytest.mark.parametrize(
    ("some", "alive", "hosts"),
    [
        ([kill_at(3, 5)], 3, 1),
        ([kill_at(0, 5, "commit.said"), kill_at(2, 5, "recovery.adopted")], 2, 1),
        ([exit_at(1, 3, "send")], 3, 1),
        ([stop_at(1, 3)], 3, 1),
        ([kill_host(1, epoch=4, phase="snapshot.middle")], 2, 2),
        ([kill_host(rank=1, epoch=4, phase="replicate.sent")], 3, 4),
    ],
    ids=lambda value: "; ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_fault_takes_whom_it_names_and_the_result_is_that_of_a_run_without(
    mpirun, tmp_path, without, some, alive, hosts
):
    proof, done = run(mpirun, tmp_path / "proof", *some, hosts=hosts)
    assert [text for text, _ in proof.hits] == [str(fault) for fault in some], done
    assert len(proof.ends) == alive, done
    assert judge(without, proof) == (Verdict.RIGHT, ""), done


@pytest.mark.parametrize("dead", [0, 3])
def test_what_a_task_keeps_of_its_context_works_on_when_tasks_have_moved(mpirun, tmp_path, without, dead):
    proof, done = run(mpirun, tmp_path / "proof", kill_at(dead, 5), program=KEEPING)
    assert len(proof.ends) == 3, done
    assert judge(without, proof) == (Verdict.RIGHT, ""), done


LATE = """
import sys, time, numpy as np, taskgraph as tg

class Node(tg.Task):
    def init(self, framework):
        self.id = framework.task_id
        self.sums = framework.protect("sums", np.zeros(1))

    def set_epoch(self, ctx, epoch):
        tag = "early" if epoch < 5 else "late"
        ctx.compose(self.give, outs=ctx.outbound((self.id + 1) % 4, tag))
        ctx.compose(self.take, ctx.inbound((self.id - 1) % 4, tag))

    def give(self, ins, outs):
        outs[0].put(self.sums)

    def take(self, ins, outs):
        self.sums += ins[0].get() + 1

    def became_primary(self):
        time.sleep(0.4)  # the root has nothing to do meanwhile

    def exit(self):
        time.sleep(0.4 * (self.id == 0))  # nobody has left when the failure is known

job = tg.Job("late", num_tasks=4, epochs=6, backups=1)
job.set_task_builder(lambda task: Node())
sys.exit(job.start())
"""


def test_a_graph_that_changed_before_the_failure_is_not_asked_about_after_it(mpirun, tmp_path):
    proof, done = run(mpirun, tmp_path / "proof", kill_at(2, 5, "commit.exiting"), hosts=4, program=LATE)
    assert {status for status, _ in proof.ends.values()} == {0}, done
    assert len(proof.ends) == 3, done


def test_a_fault_hits_once_however_often_its_epoch_is_run(mpirun, tmp_path, without):
    proof, done = run(
        mpirun, tmp_path / "proof", kill_keeper(rank=0, epoch=5), kill_at(3, 5, "send"), kill_at(2, 5, "recovery.left")
    )
    lines = [json.loads(line) for path in (tmp_path / "proof").iterdir() for line in path.read_text().splitlines()]
    assert sorted(line["fault"].split()[0] for line in lines if line["event"] == "fault") == [
        "kill", "kill", "kill-keeper",
    ], done  # fmt: skip
    assert judge(without, proof) == (Verdict.RIGHT, ""), done


def test_nothing_is_left_where_the_keeper_is_killed_as_the_ranks_leave(mpirun, tmp_path, without):
    fault = kill_keeper(rank=0, epoch=11, phase="commit.ending", nth=4)  # thrice it said "over"; this is "leave"
    proof, done = run(mpirun, tmp_path / "proof", fault)
    assert [text for text, _ in proof.hits] == [str(fault)], done
    assert judge(without, proof) == (Verdict.RIGHT, ""), done  # the fixture sees to what is left


def test_an_exception_in_the_place_of_user_code_ends_the_job_and_is_named(mpirun, tmp_path):
    proof, done = run(mpirun, tmp_path / "proof", raise_at(2, 3))
    assert "InjectedError: injected at compute.begin in epoch 3" in done.stderr
    assert {status for status, _ in proof.ends.values()} == {1}
    assert not proof.digests
