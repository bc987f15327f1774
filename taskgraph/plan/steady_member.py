"""A member that answers in few steps while nothing else happens (`taskgraph.plan.steady`), and as any other if it does.

What it knows then is known to `steady` alone, which somebody else may tell of events besides: whatever is asked of the
member, it first catches up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from taskgraph.ids import Epoch, Host, Rank, TaskId
from taskgraph.plan.commit import Contribution, Level
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.holdings import NO_END, Held, Known
from taskgraph.plan.lineage import History
from taskgraph.plan.member import NOTHING, Member
from taskgraph.plan.messages import Topic
from taskgraph.plan.orders import Order, Orders
from taskgraph.plan.phase import Phase
from taskgraph.plan.replication import arrived
from taskgraph.plan.steady import Answers, MakeSteady, Steady


class SteadyMember(Member):
    """One rank, from one generation to the next.

    Parameters
    ----------
    rank, host, epochs, every
        As of `Member`.
    steady
        Makes what is known while nothing else happens.
    """

    def __init__(self, rank: Rank, host: Host, *, epochs: int | None, every: int, steady: MakeSteady) -> None:
        super().__init__(rank, host, epochs=epochs, every=every)
        self._make_steady = steady
        self._answers: Answers | None = None

    @property
    def steady(self) -> Steady | None:
        """What is known of commits while nothing else happens; None: something does."""
        return None if self._answers is None else self._answers.steady

    @property
    def is_behind(self) -> bool:
        """Whether a backup has not said yet that it has the newest snapshot."""
        return super().is_behind if self._answers is None else self._answers.steady.is_behind

    # ---- events ----

    def interrupted(self) -> None:
        """Note that the generation is over."""
        self._forget()
        super().interrupted()

    def adopt(self, decision: Decision, history: History, held: Iterable[Held]) -> Orders:
        """Enter a generation."""
        self._forget()
        return super().adopt(decision, history, held)

    def finished(self, idle: bool, asked: int) -> Orders:
        """Take that this rank has finished its epoch. What follows comes with the order to take a snapshot."""
        if self._answers is not None:
            answer = self._answered(self._answers, self._answers.finished(idle, asked))
            if answer is not None:
                return answer
        return super().finished(idle, asked)

    def snapshot_taken(self) -> Orders:
        """Take that the snapshot that was ordered is whole."""
        return NOTHING if self._answers is not None else super().snapshot_taken()

    def receive(self, source: Rank, topic: Topic, data: bytes) -> Orders:
        """Take a control message of this rank's own generation (`messages.ALWAYS`: of any)."""
        if self._answers is not None:
            answer = self._answered(self._answers, self._answers.receive(source, topic, data))
            if answer is not None:
                return answer
        return super().receive(source, topic, data)

    def copy_arrived(
        self, source: Rank, slot: Held, base: Held | None, known: Known, whole: Collection[Held]
    ) -> Orders:
        """Take a snapshot that a primary sent to this backup."""
        if self._answers is not None:
            if self.takes_at_once(known):
                return (arrived(source, slot, base, whole),)
            self._catch_up(self._answers.steady)
        return super().copy_arrived(source, slot, base, known, whole)

    def takes_at_once(self, known: Known) -> bool:
        """Tell whether all that follows from a copy, which comes with `known`, is that it is stored."""
        return self._answers is not None and known.safe <= self._answers.steady.safe

    def copies(self, boundary: Epoch) -> Orders:
        """Return the orders to copy the snapshots of a boundary, where somebody else has given those to take them."""
        return () if self._answers is None else self._answers.copies(boundary)

    def ended(self, ending: Ending, *, everywhere: bool = True) -> Orders:
        """Leave because the job has ended."""
        self._forget()
        return super().ended(ending, everywhere=everywhere)

    # ---- from one state to the other ----

    def _go_on(self, orders: list[Order]) -> Orders:
        given = super()._go_on(orders)
        if self.phase is Phase.RUNNING and self._is_settled:
            self._answers = Answers(
                self._make_steady,
                self._tree.place,
                self.generation,
                self._tasks,
                self._epochs,
                self._every,
                self.boundary,
                Level(self._standing.safe, self._standing.delivered),
                self._snapshots.saved if self._tasks else self.boundary,
                self._snapshots.backups,
                self._snapshots.copied,
            )
        return given

    @property
    def _is_settled(self) -> bool:
        """Whether nothing of what went before may come to matter in the epoch that begins, which is not the last."""
        safe = self._standing.safe
        if self.boundary + 1 == self._epochs or not self._standing.is_settled:
            return False
        return self._snapshots.are_settled(safe, self._every) and self._delivery.lowest >= safe

    def _answered(self, answers: Answers, orders: Orders | None) -> Orders | None:
        """Return an answer; where there is none, catch up."""
        steady = answers.steady
        if orders is None:
            self._catch_up(steady)
        else:
            self.boundary = steady.committed + steady.waits
            self.phase = Phase.WAITING if steady.waits else Phase.RUNNING
        return orders

    def _catch_up(self, steady: Steady) -> None:
        """Take in what is known: of the epochs in one, then event by event; the orders of these have been given."""
        self._forget()
        self.boundary, self.phase = steady.committed, Phase.RUNNING
        if steady.committed > self._standing.committed:
            self._standing.passed(steady.committed, steady.safe, steady.delivered)
            self._tree.passed(Level(*steady.below), steady.heard)
            self._snapshots.passed(steady.committed, steady.safe, self.generation, self._every)
            self._delivery.passed(steady.safe)
        acked = steady.acked
        for task, rank, then, _ in acked:
            self._acked(task, rank, then)
        for source, (idle, *level) in steady.said.items():
            said = Contribution(steady.committed, idle, False, 0, *level)
            self._standing.contributed(source, said, self._level, [])
        if steady.waits:
            super().finished(steady.idle, NO_END)
            if self.phase is Phase.SAVING:
                super().snapshot_taken()
            if len(steady.said) == len(self._tree.place.children):  # it has said how far all below had got by then
                self._tree.has_said(Level(*steady.below))
        for task, rank, _, now in acked:
            self._acked(task, rank, now)

    def _acked(self, task: TaskId, rank: Rank, boundary: Epoch) -> None:
        assert self.decision is not None
        self._snapshots.acked(task, self.decision.host_of[rank], boundary)

    def _forget(self) -> None:
        if self._answers is not None:
            self._answers.steady.stop()
        self._answers = None
