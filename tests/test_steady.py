"""A member gives the orders, one for one, that it would give if it knew of no steady state."""

from __future__ import annotations

import random
from collections import deque
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph._native.steady import Steady
from taskgraph.errors import GraphError
from taskgraph.plan import orders as do
from taskgraph.plan import routes
from taskgraph.plan.decision import start
from taskgraph.plan.holdings import NO_END
from taskgraph.plan.layout import assign
from taskgraph.plan.member import Member
from taskgraph.plan.messages import Copy, Topic
from taskgraph.plan.phase import Phase
from taskgraph.plan.steady_member import SteadyMember


class Twins:
    """A member and one that knows of no steady state, both told the same.

    Where `others_copy`, compiled code sends the copies of a steady member in some epochs, and it is not asked for the
    orders of these.
    """

    _knows = False
    """What follows the snapshot that is being taken."""

    def __init__(self, rank, host, epochs, every, others_copy=False):
        self.member = SteadyMember(rank, host, epochs=epochs, every=every, steady=Steady)
        self._other = Member(rank, host, epochs=epochs, every=every)
        self._others_copy = others_copy

    def tell(self, event, *details):
        other = None
        if event == "snapshot_taken" and self._knows:
            self._knows = False
            return self.member.snapshot_taken()
        try:
            other = getattr(self._other, event)(*details)
        except GraphError as error:
            with pytest.raises(GraphError, match=str(error)):
                getattr(self.member, event)(*details)
            raise
        said = getattr(self.member, event)(*details)
        if said and isinstance(said[0], do.Snapshot) and self.member.phase is not Phase.SAVING:
            other += self._other.snapshot_taken()
            self._knows = True
        unasked = self._knows and self._others_copy and not any(isinstance(order, do.Replicate) for order in said)
        assert said == (self._without_copies(other) if unasked else other), (event, details)
        assert (self.member.phase, self.member.boundary) == (self._other.phase, self._other.boundary)
        if self.member.steady is None and self.member.phase is not Phase.LEFT:
            assert known(self.member) == known(self._other)
        return other

    def ask_for_copies(self, whether):
        """Ask the member, while it is steady, for the orders to copy the next snapshot, or have others copy it."""
        answers = self.member._answers
        if answers is not None and self._others_copy:
            answers._copies = whether and self.member.has_backups

    def _without_copies(self, orders):
        return tuple(order for order in orders if not isinstance(order, do.Replicate))


def known(member):
    """Return all that a member knows of commits and snapshots."""
    parts = (member._standing, member._tree, member._tree._reduction, member._snapshots, member._delivery)
    of_parts = {f"{type(part).__name__}.{name}": value for part in parts for name, value in vars(part).items()}
    of_parts |= vars(member._snapshots._replication)
    return {name: value for name, value in of_parts.items() if not hasattr(value, "__dict__")}


class Story:
    """Ranks that run epochs, in an order drawn from a seed."""

    def __init__(self, rng, ranks, tasks, *, per_host, backups, epochs, every, others_copy=False):
        self._rng = rng
        host_of = {rank: f"h{rank // per_host}" for rank in range(ranks)}
        decision = start(host_of, assign(tasks, host_of, backups, "buddy"))
        self.twins = [Twins(rank, host, epochs, every, others_copy) for rank, host in host_of.items()]
        self._orders = [deque(one.tell("adopt", decision, {0: 0}, [])) for one in self.twins]
        self._inbox = [{} for _ in self.twins]
        self._idle_in = self._ends_at = -1
        self.steady = 0

    def run(self, *, ends_at=-1, idle_in=-1, odd=0.0):
        """Run until every rank has left; return how many epochs the first one has run.

        Parameters
        ----------
        ends_at
            In this epoch somebody asks for the end.
        idle_in
            In this nobody composes anything.
        odd
            How often a message comes that nobody has to send.
        """
        self._ends_at, self._idle_in = ends_at, idle_in
        left, epochs = set(), 0
        for _ in range(100_000):
            if len(left) == len(self.twins):
                return epochs
            rank = self._rng.randrange(len(self.twins))
            orders = self._orders[rank]
            if rank in left:
                continue
            if orders:
                order = orders.popleft()
                if isinstance(order, do.Leave):
                    left.add(rank)
                epochs += rank == 0 and isinstance(order, do.RunEpoch)
                self._do(rank, order)
            elif self._rng.random() < odd:
                self._say_something_odd(rank)
            elif self._inbox[rank] and self._rng.random() < 0.7:
                self._receive(rank)
            elif self.twins[rank].member.phase is Phase.RUNNING:
                self._finish(rank)
        raise AssertionError(f"after {epochs} epochs only {left} have left")

    def _tell(self, rank, event, *details):
        self._orders[rank].extend(self.twins[rank].tell(event, *details))

    def _finish(self, rank):
        member = self.twins[rank].member
        self.steady += member.steady is not None
        epoch = member.boundary
        asked = 3 if epoch == self._ends_at and rank == len(self.twins) // 2 else NO_END
        idle = epoch == self._idle_in or (rank > 0 and self._rng.random() < 0.2)
        self.twins[rank].ask_for_copies(self._rng.random() < 0.5)
        self._tell(rank, "finished", idle, asked)

    def _receive(self, rank):
        source = self._rng.choice(list(self._inbox[rank]))
        kind, *details = self._inbox[rank][source].popleft()
        if not self._inbox[rank][source]:
            del self._inbox[rank][source]
        self._tell(rank, kind, source, *details)

    def _say_something_odd(self, rank):
        if self.twins[rank].member.phase is not Phase.RESTORING:
            self._tell(rank, "receive", 0, Topic.WANT_WHOLE, Copy(0, -5).encode())

    def _do(self, rank, order):
        match order:
            case do.Send(to, topic, data):
                self._inbox[to].setdefault(rank, deque()).append(("receive", topic, data))
            case do.Replicate(to, slot, base, known):
                copy = ("copy_arrived", slot, base, known, [base] * bool(base))
                self._inbox[to].setdefault(rank, deque()).append(copy)
            case do.Store(source, slot):
                self._orders[rank].extendleft(reversed(self.twins[rank].tell("stored", source, slot)))
            case do.Restore():
                self._tell(rank, "restored", {})
            case do.Snapshot():
                self._tell(rank, "snapshot_taken")
            case do.Exit():
                self._tell(rank, "exited")
            case do.Conclude():
                self._tell(rank, "concluded")


sizes = st.tuples(st.integers(1, 9), st.integers(1, 12))


@given(
    st.integers(0, 2**32),
    sizes,
    st.sampled_from([1, 1, 2, 3]),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.02, 0.2]),
    st.data(),
)
def test_the_orders_are_those_of_a_member_that_is_asked_for_every_one(seed, size, every, epochs, odd, data):
    (ranks, tasks), hosts = size, data.draw(st.integers(1, 3))
    backups = data.draw(st.integers(0, min(ranks, 2) - 1))
    by_request = data.draw(st.booleans())
    with patch.object(routes, "FANOUT", 2):
        story = Story(
            random.Random(seed),
            ranks,
            tasks,
            per_host=-(-ranks // hosts),
            backups=backups,
            epochs=None if by_request else epochs,
            every=every,
            others_copy=data.draw(st.booleans()),
        )
        assert story.run(ends_at=epochs - 1 if by_request else -1, odd=odd) == epochs


def test_an_epoch_in_which_nobody_composes_anything_is_an_error_there_too():
    story = Story(random.Random(5), 4, 4, per_host=4, backups=0, epochs=20, every=1)
    with pytest.raises(GraphError, match="no task composed anything in epoch 7"):
        story.run(idle_in=7)
    assert story.steady > 4


@pytest.mark.parametrize("every", [1, 3])
def test_it_is_steady_from_the_second_epoch_or_grid_point_to_the_last_but_one(every):
    story = Story(random.Random(5), 4, 6, per_host=4, backups=0, epochs=30, every=every)
    assert story.run() == 30
    assert story.steady > 4 * (29 - 2 * every)


@pytest.mark.parametrize("every", [1, 3])
def test_it_is_steady_most_of_the_time_where_copies_go_to_other_hosts(every):
    story = Story(random.Random(5), 4, 4, per_host=1, backups=1, epochs=60, every=every)
    assert story.run() == 60
    assert story.steady > 60


@pytest.mark.parametrize("every", [1, 3])
def test_it_names_the_base_that_backups_have_whoever_has_copied_that(every):
    for seed in range(10):
        story = Story(random.Random(seed), 4, 4, per_host=1, backups=1, epochs=60, every=every, others_copy=True)
        assert story.run() == 60
        assert story.steady > 60


def test_a_generation_that_is_over_leaves_nothing_of_it():
    story = Story(random.Random(5), 4, 4, per_host=4, backups=0, epochs=None, every=1)
    for twins in story.twins:
        twins.tell("receive", 0, Topic.FENCED, b"")
        assert twins.member.phase is Phase.LEFT
