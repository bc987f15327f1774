"""How far the job stands, as one rank has heard: what is committed, what is safe, where it ends.

How far state is kept travels with the commits; alone (`Level`) only where somebody may be waiting for it: first in a
generation, when slots are short, and at the end.
"""

from __future__ import annotations

from collections.abc import Callable

from taskgraph.ids import Epoch, Rank
from taskgraph.plan import adoption, grid
from taskgraph.plan.commit import Contribution, Level, Verdict, verdict
from taskgraph.plan.decision import Decision
from taskgraph.plan.holdings import NO_END, Known
from taskgraph.plan.messages import Topic
from taskgraph.plan.orders import Order, Record
from taskgraph.plan.snapshots import Snapshots
from taskgraph.plan.tree import Tree


class Standing:
    """Commits, up and down the tree of one generation.

    Attributes
    ----------
    committed
        All epochs below are finished everywhere.
    safe, delivered
        The boundaries that all have reached, as far as it was heard.
    end_at, end
        Where the job ends and with what status, once that is decided; -1 and `NO_END` before.
    acted
        Whether any commit of this generation was acted on.
    """

    def __init__(self, decision: Decision, rank: Rank, snapshots: Snapshots, epochs: int | None, every: int) -> None:
        self.tree = Tree(decision, rank)
        self._snapshots = snapshots
        self._generation = decision.generation
        self._epochs = epochs
        self._every = every
        self.committed = decision.boundary
        self.safe, self.delivered = decision.safe, decision.delivered
        self.end = adoption.ends_with(decision, epochs, NO_END)
        self.end_at = decision.boundary if self.end != NO_END else -1
        self.acted = False
        self._unheard = decision.generation > 0

    @property
    def known(self) -> Known:
        """What the host writes down of it."""
        return Known(self._generation, self.safe, min(self.delivered, self.safe), self.end_at, self.end)

    @property
    def is_over(self) -> bool:
        """Whether finished, safe and delivered, ``exit`` included, have all reached the end."""
        return self.end_at >= 0 and self.safe >= self.end_at and self.delivered > self.end_at

    @property
    def is_settled(self) -> bool:
        """Whether no end is known, and nobody waits to hear more than what travels with the commits."""
        waits_for_none = self.acted and not self._unheard and not self.tree.has_heard
        return self.end_at < 0 and waits_for_none and not self._is_short

    @property
    def _is_short(self) -> bool:
        """Whether a rank may be short of a slot at the boundary that follows: nobody can be further than that."""
        return self.committed - self.safe >= (grid.SLOTS - 1) * self._every

    def passed(self, committed: Epoch, safe: Epoch, delivered: Epoch) -> None:
        """Note that compiled code has acted on all commits up to this one."""
        self.committed, self.safe, self.delivered = committed, safe, delivered
        self.acted, self._unheard = True, False

    # ---- with an epoch ----

    def contribute(self, own: Contribution, orders: list[Order]) -> None:
        """Say that this rank has finished an epoch."""
        whole = self.tree.contribute(own, orders)
        if whole is not None:
            self.decided(verdict(whole, self._epochs), orders)

    def contributed(
        self, source: Rank, contribution: Contribution, own: Callable[[], Level], orders: list[Order]
    ) -> bool:
        """Note that a child's subtree has finished an epoch; return whether that was passed on."""
        before = len(orders)
        whole = self.tree.contributed(source, contribution, own, orders)
        if whole is not None:
            self.decided(verdict(whole, self._epochs), orders)
        return len(orders) > before or whole is not None

    def decided(self, said: Verdict, orders: list[Order]) -> None:
        """Note that an epoch is finished on every rank."""
        if not self.tree.is_leaf:
            self.tree.down(Topic.VERDICT, said.encode(), orders)
        self.committed = said.epoch + 1
        self._unheard = False
        if said.last:
            self.end_at, self.end = self.committed, said.status
        self.hear(said.safe, said.delivered, orders)
        if said.last:
            self._snapshots.must_have(self.end_at)

    def hear(self, safe: Epoch, delivered: Epoch, orders: list[Order]) -> None:
        """Act on a commit: it is the only thing that frees snapshots."""
        self.acted = True
        self.safe = max(self.safe, safe)
        self.delivered = max(self.delivered, delivered)
        orders.append(Record(self.known))
        self._snapshots.free_below(self.safe)

    # ---- between epochs ----

    def say_level(self, own: Callable[[], Level], orders: list[Order]) -> None:
        """Pass on how far state is kept, where somebody may be waiting for it.

        Parameters
        ----------
        own
            How far this rank has got; asked only where it is said, for most contributions pass with nobody waiting.
        """
        if self._unheard or self.end_at >= 0 or self._is_short:
            level = self.tree.say_level(own, orders)
            news = level.safe > self.safe or level.delivered > self.delivered
            if self.tree.is_root and level.safe >= 0 and (news or self._unheard):
                self.take_level(level, orders)

    def take_level(self, level: Level, orders: list[Order]) -> None:
        """Take, and pass down, how far the job has got."""
        if not self.tree.is_leaf:
            self.tree.down(Topic.LEVEL_DOWN, level.encode(), orders)
        self._unheard = False
        self.hear(level.safe, level.delivered, orders)
