"""What the main thread of a rank needs of the units of its host, and the part of it that one process can do alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from taskgraph.errors import EpochAborted
from taskgraph.ids import Epoch, Generation, Rank
from taskgraph.plan.decision import Decision
from taskgraph.plan.lineage import History


class Control(Protocol):
    """How the worker learns of generations, and says how far it is."""

    def next_decision(self, after: Generation, serve: Callable[[], bool]) -> tuple[Decision, History]:
        """Wait for the decision of a generation above `after`, calling `serve` all the while.

        Raises
        ------
        EpochAborted
            The job has ended.
        """

    def conclude(self, generation: Generation, status: int) -> None:
        """Write down that the job is over. Called on the root of the tree, before anybody leaves."""

    def progress(self, epochs: Epoch) -> None:
        """So many epochs are finished."""

    def finishing(self) -> None:
        """Hear that the last epoch is finished; ``exit`` of the tasks comes next."""

    def lost(self, rank: Rank) -> None:
        """Hear from the transport that a rank has died."""


class NoControl:
    """For ranks in one process: they live and die together."""

    def next_decision(self, after: Generation, serve: Callable[[], bool]) -> tuple[Decision, History]:
        """There is none: the job has ended."""
        raise EpochAborted

    def conclude(self, generation: Generation, status: int) -> None:
        """Do nothing."""

    def progress(self, epochs: Epoch) -> None:
        """Do nothing."""

    def finishing(self) -> None:
        """Do nothing."""

    def lost(self, rank: Rank) -> None:
        """Never called."""
