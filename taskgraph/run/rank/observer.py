"""Who is told how the job goes: injected from above, since what a person sees is not the business of this layer."""

from __future__ import annotations

from typing import Protocol

from taskgraph.ids import Epoch
from taskgraph.plan.ending import Ending
from taskgraph.plan.manifest import Name
from taskgraph.run.rank.timeline import Recovered, Survived


class Observer(Protocol):
    """Told by the root rank of its progress, and by the one rank that speaks for the job of its failure.

    Nothing here may raise: it is called by the threads that keep the job alive.
    """

    def progress(self, epochs: Epoch) -> None:
        """Hear that so many epochs are finished. Called now and then, by any thread."""

    def resumes(self, checkpoint: Name, where: str) -> None:
        """Note that the job goes on from a checkpoint of an earlier run."""

    def recovered(self, recovered: Recovered) -> None:
        """Note that ranks were lost and the job goes on."""

    def survived(self, survived: Survived) -> None:
        """Take, at the end of a job that has lost ranks, what it went through."""

    def failed(self, ending: Ending) -> None:
        """Hear that the job has failed. Called once in the job."""

    def close(self) -> None:
        """Hear that the job is over on this rank."""
