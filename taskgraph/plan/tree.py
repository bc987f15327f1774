"""A rank's part in the tree of a generation: what goes up from it and what comes down through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from taskgraph.ids import Epoch, Rank
from taskgraph.plan.commit import NOWHERE, Contribution, Level, Reduction
from taskgraph.plan.decision import Decision
from taskgraph.plan.messages import Topic
from taskgraph.plan.orders import Order, Send
from taskgraph.plan.routes import tree_place


class Tree:
    """The rank above, those below, and what they have said.

    Attributes
    ----------
    place
        Who they are.
    is_root, is_leaf
        Whether no rank is above, or none below.
    """

    def __init__(self, decision: Decision, rank: Rank) -> None:
        place = self.place = tree_place(decision.live, rank)
        self.is_root = place.parent is None
        self._parent = place.parent
        self._children = place.children
        self.is_leaf = not place.children
        self._reduction = Reduction(place.children)
        self._said = NOWHERE
        self._acknowledged: set[Rank] = set()

    @property
    def has_heard(self) -> bool:
        """Whether a child has said something of an epoch that is not finished."""
        return self._reduction.has_heard

    def passed(self, said: Level, children: Mapping[Rank, tuple[Epoch, Epoch]]) -> None:
        """Take what was said last for the subtree, and by the children, while somebody else passed it on."""
        self._said = said
        for child, level in children.items():
            self._reduction.level(child, Level(*level))

    def has_said(self, level: Level) -> None:
        """Take what was said last for the subtree."""
        self._said = level

    def up(self, topic: Topic, data: bytes, orders: list[Order]) -> None:
        """Send something to the rank above."""
        assert self._parent is not None
        orders.append(Send(self._parent, topic, data))

    def down(self, topic: Topic, data: bytes, orders: list[Order]) -> None:
        """Send something to all ranks below."""
        for child in self._children:
            orders.append(Send(child, topic, data))

    def around(self, topic: Topic, data: bytes, orders: list[Order]) -> None:
        """Send something to the rank above and to all below."""
        if self._parent is not None:
            self.up(topic, data, orders)
        self.down(topic, data, orders)

    def contribute(self, own: Contribution, orders: list[Order]) -> Contribution | None:
        """Add what this rank says of an epoch. Returns what all say, at the root, once they have."""
        whole = self._reduction.own(own)
        return None if whole is None else self._pass_up(whole, orders)

    def contributed(
        self, source: Rank, contribution: Contribution, own: Callable[[], Level], orders: list[Order]
    ) -> Contribution | None:
        """Add what a child says of an epoch. Returns what all say, at the root, once they have."""
        whole = self._reduction.child(source, contribution)
        if whole is None:
            return None
        level = self._reduction.lowest(own())  # copies may have arrived since the others contributed
        return self._pass_up(Contribution(*whole[:4], *level), orders)

    def _pass_up(self, whole: Contribution, orders: list[Order]) -> Contribution | None:
        if self.is_root:
            return whole
        self._said = Level(whole.safe, whole.delivered)
        self.up(Topic.CONTRIBUTION, whole.encode(), orders)
        return None

    def heard_level(self, source: Rank, level: Level) -> None:
        """Note how far the subtree of a child has got."""
        self._reduction.level(source, level)

    def say_level(self, own: Callable[[], Level], orders: list[Order]) -> Level:
        """Pass on how far the subtree has got, if that is news. Returns how far."""
        level = self._reduction.lowest(own())
        if not self.is_root and (level.safe > self._said.safe or level.delivered > self._said.delivered):
            self._said = level
            self.up(Topic.LEVEL_UP, level.encode(), orders)
        return level

    def acknowledged(self, source: Rank) -> None:
        """Note that the subtree of a child knows that the job is over."""
        self._acknowledged.add(source)

    @property
    def all_acknowledged(self) -> bool:
        """Whether all ranks below know that the job is over."""
        return len(self._acknowledged) == len(self._children)
