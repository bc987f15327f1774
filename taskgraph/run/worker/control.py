"""What the main thread of a rank needs of the units of its host, and the part of it that one process can do alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.lineage import History

NAP_S = 0.0002
"""How long to sleep between two looks at MPI, which has no event to wait for, in seconds."""


class JobEnded(Exception):
    """The job has ended, and this rank has not left it in order.

    Attributes
    ----------
    everywhere
        etcd has said so: it is the end of every rank, and not only of those that have lost etcd.
    """

    def __init__(self, ending: Ending, *, everywhere: bool = False) -> None:
        super().__init__(ending.describe())
        self.ending = ending
        self.everywhere = everywhere


class Control(Protocol):
    """How the worker learns of generations, and says how far it is."""

    def next_decision(self, after: Generation, serve: Callable[[], bool]) -> tuple[Decision, History]:
        """Wait for the decision of a generation above `after`, calling `serve` all the while.

        Raises
        ------
        JobEnded
        """

    def resumed(self, decision: Decision) -> None:
        """Take that this rank has adopted a generation and restored its state."""

    def fail(self, error: BaseException, task: TaskId | None, epoch: Epoch | None, generation: Generation) -> None:
        """Take that user code, or the graph, has raised. Returns where that does not count: a failure came before.

        Raises
        ------
        JobEnded
        """

    def conclude(self, generation: Generation, status: int) -> None:
        """Write down that the job is over. Called on the root of the tree, before anybody leaves.

        Raises
        ------
        EpochAborted
            It ended otherwise, or another generation has begun.
        """

    def begins(self, epoch: Epoch) -> bool:
        """Take that an epoch begins, unless it may not: then messages are answered, and it is asked again.

        Raises
        ------
        EpochAborted
            Another generation has begun, or the job has ended.
        """

    def finishing(self) -> None:
        """Take that the last epoch is finished; ``exit`` of the tasks comes next."""

    def fenced(self, by: Rank) -> None:
        """Take that a rank of a newer generation refuses what this one sends."""

    def lost(self, rank: Rank) -> None:
        """Take that the transport has found a rank to be dead."""


class NoControl:
    """For ranks in one process: they live and die together."""

    def next_decision(self, after: Generation, serve: Callable[[], bool]) -> tuple[Decision, History]:
        """Give up: there is none, so another rank has failed."""
        raise JobEnded(Ending(status=1, message="another rank has failed"))

    def resumed(self, decision: Decision) -> None:
        """Do nothing."""

    def fail(self, error: BaseException, task: TaskId | None, epoch: Epoch | None, generation: Generation) -> None:
        """Raise it as it is."""
        raise error

    def conclude(self, generation: Generation, status: int) -> None:
        """Do nothing."""

    def begins(self, epoch: Epoch) -> bool:
        """Tell that it may."""
        return True

    def finishing(self) -> None:
        """Do nothing."""

    def fenced(self, by: Rank) -> None:
        """Do nothing: there is one generation."""

    def lost(self, rank: Rank) -> None:
        """Do nothing: threads are not lost."""
