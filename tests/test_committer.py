"""Epochs are committed by compiled code while nothing else happens, and by the member as soon as something does."""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from taskgraph import trace
from taskgraph._native.channel import Pump
from taskgraph._native.committer import COMMITTED, LEFT, NOT_DONE, Committer
from taskgraph._native.steady import Steady
from taskgraph.backends.commits import Commits
from taskgraph.backends.slot_file import Form
from taskgraph.backends.slot_holder import Holder
from taskgraph.backends.slots import Refusal, SlotDir
from taskgraph.errors import EpochAborted
from taskgraph.plan.commit import Contribution, Verdict
from taskgraph.plan.holdings import Known
from taskgraph.plan.messages import Copy, Topic
from taskgraph.plan.routes import tree_place
from taskgraph.run.state.copies import closed, opened
from taskgraph.run.state.slot_note import END_BITS, delivered_of, end_of

GENERATION = 3


class Network:
    """Takes control messages from rank to rank."""

    def __init__(self, ranks: int) -> None:
        self.inboxes = [queue.Queue() for _ in range(ranks)]


class Connection(Pump):
    def __init__(self, network, rank):
        self.network, self.rank = network, rank
        self.sent = []
        self.copies = []
        self.committer = None
        self.member = deque()

    def send_control(self, peer, topic, epoch, data):
        self.sent.append((peer, topic, data))
        self.network.inboxes[peer].put((self.rank, topic, data))
        return 0

    def send_copy(self, peer, frames):
        self.copies.append((peer, [np.frombuffer(bytes(frame), "u1") for frame in frames]))
        return 0

    def pump(self):
        message = self.network.inboxes[self.rank].get(timeout=20)
        if not self.committer.receive(*message):
            self.member.append(message)
        return 1


class Host:
    """The shared memory of a host, with ranks that have just committed epoch 0."""

    def __init__(self, path: Path, ranks: int, epochs: int | None = None) -> None:
        path.mkdir()
        self.slots = SlotDir.create(path / "slots", "run")
        self.slots.raise_floor(GENERATION)
        Commits.create(path / "commits", ranks)
        self.commits = Commits.open(path / "commits")
        self.network = Network(ranks)
        self.ranks = [One(self, rank, ranks, epochs) for rank in range(ranks)]


class One:
    """A rank with one task, whose state is one number."""

    def __init__(self, host, rank, ranks, epochs, backups=()):
        place = tree_place(range(ranks), rank)
        self.state = np.zeros(1)
        self.connection = Connection(host.network, rank)
        self.committer = Committer(
            self.connection, host.slots.table, host.commits.line(rank), self.connection.member, END_BITS
        )
        self.connection.committer = self.committer
        self.holder = Holder(host.slots, rank, Form.of({"state": self.state}))
        self.holder.write(1, GENERATION, [self.state], history=((GENERATION, 0),))
        self.holder.prepare([self.state])
        self.steady = Steady(place.parent, place.children, True, epochs, 1, 1, 1, 0, 1, backups)
        self.committer.begin(self.steady, GENERATION, [self.holder.writer], None, {})


@pytest.fixture
def path() -> Iterator[Path]:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="taskgraph-test-", dir=base))
    yield path / "host"
    shutil.rmtree(path)


def contribution(epoch, *, idle=False, last=False, safe=None):
    return Contribution(epoch, idle, last, 0, epoch + 1 if safe is None else safe, epoch).encode()


def verdict(epoch, *, last=False, safe=None):
    return Verdict(epoch, last, 0, epoch + 1 if safe is None else safe, epoch).encode()


@pytest.mark.parametrize("ranks", [1, 2, 12])
def test_ranks_commit_epoch_after_epoch(path, ranks):
    host = Host(path, ranks)
    epochs = 50

    def run(one):
        for epoch in range(1, epochs):
            one.state[0] = epoch
            assert one.committer.commit(False) == COMMITTED

    threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in host.ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [one.steady.committed for one in host.ranks] == [epochs] * ranks
    held = host.slots.holdings()
    assert sorted(slot[:3] for slot in held) == [(rank, epochs, GENERATION) for rank in range(ranks)]
    for slot in held:
        state = np.empty(1)
        assert host.slots.read(slot, [state]) == []
        assert state[0] == epochs - 1
        assert (delivered_of(slot.note), end_of(slot.note)) == (epochs - 1, -1)
    assert host.commits.read() == (Known(GENERATION, epochs, epochs - 1), None)


def test_a_rank_says_that_its_subtree_is_finished_and_waits_for_the_verdict(path):
    leaf = Host(path, 2).ranks[1]
    leaf.connection.network.inboxes[1].put((0, Topic.VERDICT, verdict(1)))
    assert leaf.committer.commit(True) == COMMITTED
    assert leaf.connection.sent == [(0, Topic.CONTRIBUTION, contribution(1, idle=True))]
    assert (leaf.steady.committed, leaf.steady.safe, leaf.steady.delivered) == (2, 2, 1)


def test_the_root_hears_of_others_while_it_computes(path):
    root = Host(path, 3).ranks[0]
    for child in (2, 1):
        assert root.committer.receive(child, Topic.CONTRIBUTION, contribution(1))
    assert root.connection.sent == []
    assert root.committer.commit(False) == COMMITTED
    assert root.connection.sent == [(child, Topic.VERDICT, verdict(1)) for child in (1, 2)]


@pytest.mark.parametrize(
    ("topic", "data"),
    [
        (Topic.CONTRIBUTION, contribution(1, last=True)),
        (Topic.CONTRIBUTION, contribution(2)),
        (Topic.CONTRIBUTION, contribution(1)[:-1]),
        (Topic.VERDICT, verdict(1)),
        (Topic.LEVEL_UP, b""),
        (Topic.OVER, b"\0"),
    ],
)
def test_what_is_unusual_is_the_members(path, topic, data):
    root = Host(path, 2).ranks[0]
    assert not root.committer.receive(1, topic, data)
    root.connection.network.inboxes[0].put((1, topic, data))
    assert root.committer.commit(False) == LEFT
    assert list(root.connection.member) == [(1, topic, data)]
    assert (root.steady.waits, root.steady.committed, root.steady.said) == (True, 1, {})


def test_a_contribution_after_which_no_plain_commit_can_follow_is_the_members(path):
    root = Host(path, 2).ranks[0]
    root.connection.network.inboxes[0].put((1, Topic.CONTRIBUTION, contribution(1, idle=True)))
    assert root.committer.commit(True) == LEFT
    assert root.steady.said == {}
    assert root.steady.heard == {1: (0, 0)}
    assert root.connection.sent == []


def test_after_it_was_left_to_the_member_nothing_is_heard_here(path):
    root = Host(path, 2).ranks[0]
    root.holder.writer.forget()
    assert root.committer.commit(False) == NOT_DONE
    assert not root.steady.waits
    assert not root.committer.receive(1, Topic.CONTRIBUTION, contribution(1))


def test_a_steady_state_that_is_over_commits_nothing(path):
    root = Host(path, 1).ranks[0]
    root.steady.stop()
    assert root.committer.commit(False) == NOT_DONE


def test_the_last_epoch_is_the_members(path):
    one = Host(path, 1, epochs=3).ranks[0]
    assert one.committer.commit(False) == COMMITTED
    assert one.committer.commit(False) == NOT_DONE


def test_where_another_rank_is_two_snapshots_behind_the_member_sees_to_it(path):
    root = Host(path, 2).ranks[0]
    root.connection.network.inboxes[0].put((1, Topic.CONTRIBUTION, contribution(1, safe=1)))
    assert root.committer.commit(False) == COMMITTED
    root.connection.network.inboxes[0].put((1, Topic.CONTRIBUTION, contribution(2, safe=1)))
    assert root.committer.commit(False) == LEFT
    assert (root.steady.committed, root.steady.safe) == (2, 1)


def test_copies_are_sent_before_a_rank_says_that_it_has_finished_and_count_once_acknowledged(path):
    host = Host(path, 2)
    leaf = host.ranks[1]
    steady = Steady(0, (), True, None, 1, 1, 1, 0, 1, ((1, 7, 1), (1, 8, 1)))
    sent = []

    def copy(boundary):
        assert leaf.connection.sent == []
        sent.append(boundary)

    leaf.committer.begin(steady, GENERATION, [leaf.holder.writer], copy, {})
    leaf.connection.network.inboxes[1].put((0, Topic.VERDICT, verdict(1, safe=1)))
    assert leaf.committer.commit(False) == COMMITTED
    assert sent == [2]
    assert [data for _, _, data in leaf.connection.sent] == [contribution(1, safe=1)]
    assert leaf.committer.receive(7, Topic.ACK, Copy(1, 2).encode())
    assert steady.is_behind
    assert leaf.committer.receive(8, Topic.ACK, Copy(1, 2).encode())
    assert not steady.is_behind
    assert not leaf.committer.receive(9, Topic.ACK, Copy(1, 2).encode())
    assert steady.acked == [(1, 7, 2, 2), (1, 8, 2, 2)]


class Pair:
    """Two hosts of one rank each: one runs a task, the other is its backup and has the snapshot of boundary 1."""

    def __init__(self, path):
        self.hosts = [self._host(path / name) for name in "ab"]
        self.network = Network(2)
        self.connections = [Connection(self.network, rank) for rank in range(2)]
        self.state, self.form = np.zeros(4096), Form.of({"state": np.zeros(4096)})
        primary, keeper = (Holder(slots, 5, self.form) for slots, _ in self.hosts)
        whole = primary.write(1, GENERATION, [self.state], note=9, history=((GENERATION, 0),)).whole()
        assert keeper.apply(whole.head, whole.frames, GENERATION)[:3] == (5, 1, GENERATION)
        primary.prepare([self.state])
        keeper.prepare(None)
        self.keeper = keeper
        self.backup = self._committer(1)
        self.follower = Steady(0, (), False, None, 1, 1, 1, 0, 1, ())
        self.backup.begin(self.follower, GENERATION, [], None, {5: keeper.writer})
        self.asked = []
        self.leader = Steady(None, (), True, None, 1, 1, 1, 0, 1, ((5, 1, 1),))
        self.primary = self._committer(0)
        self.primary.begin(self.leader, GENERATION, [primary.writer], self._ask, {})
        self._holder = primary

    def _host(self, path):
        path.mkdir(parents=True)
        slots = SlotDir.create(path / "slots", "run")
        slots.raise_floor(GENERATION)
        Commits.create(path / "commits", 1)
        return slots, Commits.open(path / "commits")

    def _committer(self, rank):
        (slots, commits), connection = self.hosts[rank], self.connections[rank]
        connection.committer = Committer(connection, slots.table, commits.line(0), connection.member, END_BITS)
        return connection.committer

    def _ask(self, boundary):
        """Send a copy as the member orders it."""
        self.asked.append(boundary)
        taken = self._holder.repeated(boundary, GENERATION)
        self.connections[0].send_copy(1, closed(taken.delta(), Known(GENERATION, boundary - 1, boundary - 1)))

    def commit(self, at):
        """Commit an epoch that has changed one number."""
        self.state[at] += 1
        assert self.primary.commit(False) == COMMITTED
        [(peer, frames)] = self.connections[0].copies
        assert peer == 1
        self.connections[0].copies.clear()
        return frames

    def acknowledge(self):
        """Take the acknowledgement, and let the backup hear of the commit."""
        [(peer, topic, data)] = self.connections[1].sent
        self.connections[1].sent.clear()
        assert (peer, topic) == (0, Topic.ACK)
        assert self.primary.receive(1, topic, data)
        said = verdict(self.follower.committed, safe=self.leader.safe)
        self.network.inboxes[1].put((0, Topic.VERDICT, said))
        assert self.backup.commit(False) == COMMITTED
        self.connections[1].sent.clear()
        return Copy.decode(data)


@pytest.fixture
def pair(path):
    return Pair(path)


def test_copies_go_from_host_to_host_without_anybody_being_asked_but_for_the_first(pair):
    for boundary in range(2, 30):
        frames = pair.commit(37 * boundary % 4096)
        assert sum(frame.nbytes for frame in frames[1:]) == 16384, "one block of two"
        assert pair.backup.receive_copy(0, frames)
        assert pair.acknowledge() == (5, boundary)
        held = pair.keeper.find(boundary, GENERATION)
        assert held[:5] == (5, boundary, GENERATION, max(boundary - 2, 1) << END_BITS, ((GENERATION, 0),))
        found = np.empty(4096)
        assert pair.keeper.read(held, [found]) == []
        assert np.array_equal(found, pair.state)
        assert pair.hosts[1][0].verify(held) is None
    assert pair.asked == [2]


def test_a_copy_that_is_sent_here_is_the_one_that_the_member_orders(pair):
    pair.backup.receive_copy(0, pair.commit(1))
    pair.acknowledge()
    sent = pair.commit(3000)
    ordered = closed(pair._holder.repeated(3, GENERATION).delta(), Known(GENERATION, 1, 1))
    assert [bytes(frame) for frame in sent] == [bytes(frame) for frame in ordered]
    assert pair.asked == [2]


def test_a_copy_of_what_has_not_changed_brings_no_bytes(pair):
    pair.backup.receive_copy(0, pair.commit(1))
    pair.acknowledge()
    assert pair.primary.commit(False) == COMMITTED
    [(_, frames)] = pair.connections[0].copies
    assert len(frames) == 1
    assert pair.backup.receive_copy(0, frames)
    assert pair.acknowledge() == (5, 3)


def damaged(frames, frame, at):
    frames = [frame.copy() for frame in frames]
    frames[frame][at] ^= 1
    return frames


@pytest.mark.parametrize(
    "unlike",
    [
        lambda pair, frames: [],
        lambda pair, frames: [frames[0][:39]],
        lambda pair, frames: [frames[0][:60], *frames[1:]],
        lambda pair, frames: damaged(frames, 0, 50),
        lambda pair, frames: damaged(frames, 1, 50),
        lambda pair, frames: frames[:1],
        lambda pair, frames: [*frames, frames[1]],
        lambda pair, frames: pair.primary.receive(1, Topic.ACK, Copy(5, 2).encode()) and pair.commit(3),
        lambda pair, frames: pair.connections[1].member.append("waits") or frames,
        lambda pair, frames: pair.hosts[1][0].free_below(2, GENERATION) or frames,
        lambda pair, frames: pair.follower.stop() or frames,
    ],
    ids=["empty", "short", "cut", "head", "bytes", "missing", "more", "gap", "queue", "freed", "over"],
)
def test_a_copy_that_is_no_change_of_the_one_before_is_the_members(pair, unlike):
    frames = pair.commit(1)
    assert not pair.backup.receive_copy(0, unlike(pair, frames))
    assert pair.connections[1].sent == []
    assert pair.keeper.find(2, GENERATION) is None
    assert pair.keeper.find(3, GENERATION) is None


def test_what_was_damaged_on_its_way_is_asked_for_as_a_whole_and_the_next_one_is_no_change_of_it(pair):
    frames = pair.commit(1)
    assert not pair.backup.receive_copy(0, damaged(frames, 1, 50))
    copy = opened(damaged(frames, 1, 50))
    assert pair.keeper.apply(copy.head, copy.blocks, GENERATION) is Refusal.DAMAGED
    copy = opened(frames)
    assert pair.keeper.apply(copy.head, copy.blocks, GENERATION)[:3] == (5, 2, GENERATION)
    pair.keeper.prepare(None)
    pair.hosts[0][0].free_below(2, GENERATION)
    assert pair.primary.receive(1, Topic.ACK, Copy(5, 2).encode())
    assert pair.backup.receive_copy(0, pair.commit(2))
    assert pair.acknowledge() == (5, 3)


def test_a_copy_that_knows_of_a_later_commit_is_the_members(pair):
    for boundary in (2, 3):
        assert pair.backup.receive_copy(0, pair.commit(1))
        assert pair.primary.receive(1, Topic.ACK, Copy(5, boundary).encode())
    pair.hosts[1][0].free_below(2, GENERATION)
    assert not pair.backup.receive_copy(0, pair.commit(1)), "boundary 2 is safe, which the backup has not heard"


def test_where_the_generation_is_over_no_copy_is_sent_stored_or_acknowledged(pair, monkeypatch):
    frames = pair.commit(1)

    def fences(point, subject):
        if point == "replicate.filled":
            pair.hosts[1][0].raise_floor(GENERATION + 1)

    monkeypatch.setattr(trace, "hook", fences)
    assert not pair.backup.receive_copy(0, frames), "the member finds out why"
    with pytest.raises(EpochAborted):
        pair.backup.receive_copy(0, frames)
    assert pair.connections[1].sent == []
    assert pair.hosts[1][0].find(5, 2) is None
    pair.hosts[0][0].raise_floor(GENERATION + 1)
    assert pair.primary.commit(False) == NOT_DONE
    assert pair.connections[0].copies == []


def test_where_the_generation_ends_in_between_what_was_written_is_neither_sent_nor_acknowledged(pair, monkeypatch):
    assert pair.backup.receive_copy(0, pair.commit(1))
    pair.acknowledge()
    frames = pair.commit(1)
    at = {"replicate.stored": 1}
    monkeypatch.setattr(
        trace, "hook", lambda point, _: point in at and pair.hosts[at[point]][0].raise_floor(GENERATION + 1)
    )
    with pytest.raises(EpochAborted):
        pair.backup.receive_copy(0, frames)
    assert pair.connections[1].sent == []
    assert pair.primary.receive(1, Topic.ACK, Copy(5, 3).encode())
    at = {"snapshot.whole": 0}
    with pytest.raises(EpochAborted):
        pair.primary.commit(False)
    assert pair.connections[0].copies == []


def test_each_step_of_a_copy_passes_the_point_that_is_named_for_it(pair, monkeypatch):
    pair.backup.receive_copy(0, pair.commit(1))
    pair.acknowledge()
    points = []
    monkeypatch.setattr(trace, "hook", lambda point, subject: points.append(point))
    frames = pair.commit(1)
    assert points[1:4] == ["snapshot.whole", "replicate.begin", "replicate.sent"]
    points.clear()
    assert pair.backup.receive_copy(0, frames)
    assert points == ["replicate.arrived", "replicate.filled", "replicate.stored"]


def test_below_the_floor_nothing_is_said_or_written_down(path):
    host = Host(path, 2)
    root = host.ranks[0]
    assert root.committer.receive(1, Topic.CONTRIBUTION, contribution(1))

    def fences(point, subject):
        if point == "snapshot.whole":
            host.slots.raise_floor(GENERATION + 1)

    trace.hook, before = fences, trace.hook
    try:
        with pytest.raises(EpochAborted):
            root.committer.commit(False)
    finally:
        trace.hook = before
    assert root.connection.sent == []
    assert host.commits.read() == (Known(), None)


def test_once_the_generation_is_over_user_code_is_not_called_even_if_the_epoch_was_committed(path):
    host = Host(path, 1)

    def fences(point, subject):
        if point == "commit.recorded":
            host.slots.raise_floor(GENERATION + 1)

    trace.hook, before = fences, trace.hook
    try:
        with pytest.raises(EpochAborted):
            host.ranks[0].committer.commit(False)
    finally:
        trace.hook = before


def test_each_step_passes_the_point_that_is_named_for_it(path, monkeypatch):
    points = []
    monkeypatch.setattr(trace, "hook", lambda point, subject: points.append(point))
    leaf = Host(path, 2).ranks[1]
    points.clear()
    leaf.connection.network.inboxes[1].put((0, Topic.VERDICT, verdict(1)))
    assert leaf.committer.commit(False) == COMMITTED
    assert points == ["snapshot.middle", "snapshot.whole", "commit.said", "commit.heard", "commit.recorded"]


JOB = """
import sys, numpy as np, taskgraph as tg
from taskgraph.plan.steady_member import SteadyMember

asked = []
finished = SteadyMember.finished
SteadyMember.finished = lambda self, *how: asked.append(self.boundary) or finished(self, *how)
copied = []
copies = SteadyMember.copies
SteadyMember.copies = lambda self, boundary: copied.append(boundary) or copies(self, boundary)
stored = []
arrived = SteadyMember.copy_arrived
SteadyMember.copy_arrived = lambda self, *what: stored.append(what[1]) or arrived(self, *what)
EPOCHS = int(sys.argv[1])

class Node(tg.Task):
    def init(self, framework):
        self.id = framework.task_id
        self.x = framework.protect("x", np.zeros(3))
        self.heard = []

    def set_epoch(self, ctx, epoch):
        ctx.compose(self.give, outs=ctx.outbound(1 - self.id, "x"))
        ctx.compose(self.take, ctx.inbound(1 - self.id, "x"))

    def give(self, ins, outs):
        outs[0].put(self.x)

    def take(self, ins, outs):
        self.x += ins[0].get() % 1000 + 1

    def committed(self, epoch):
        self.heard.append(epoch)

    def exit(self):
        right = self.heard == list(range(EPOCHS))
        print(len(asked), len(copied), len(stored), right, flush=True)

job = tg.Job("asked", num_tasks=2, backups=1, epochs=EPOCHS, progress="off")
job.set_task_builder(lambda task: Node())
sys.exit(job.start())
"""


def asked(mpirun, epochs, env):
    """Run a job of two ranks; of each: how often its member was asked for an epoch, a copy to send, one that came."""
    done = mpirun.run(JOB, ranks=2, args=[str(epochs)], env=env)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[3] for line in lines] == ["True", "True"], done
    return [tuple(map(int, line[:3])) for line in lines]


def test_in_a_real_job_the_member_is_asked_for_the_first_epochs_and_the_last(mpirun):
    for epochs, copied, stored in asked(mpirun, 40, {}):
        assert 1 <= epochs <= 4
        assert (copied, stored) == (0, 0)


def test_where_copies_go_to_another_host_it_is_asked_now_and_then(mpirun):
    for epochs, copied, stored in asked(mpirun, 600, {"TASKGRAPH_RANKS_PER_HOST": "1"}):
        assert 1 <= epochs < 200
        assert 1 <= copied < 200
        assert 1 <= stored < 200
