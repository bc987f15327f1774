"""What a user writes: a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskgraph.ids import Epoch
    from taskgraph.program.context import Context
    from taskgraph.program.framework import Framework


class Task(ABC):
    """One logical unit of work. Subclass it; only `set_epoch` has to be written.

    The framework makes a task on its primary rank, and on the ranks of its backups, and calls these methods there.
    All of them run on the main thread of the rank.
    """

    def init(self, framework: Framework) -> None:
        """Set the task up, before the first epoch. State that must survive failures goes through `framework.protect`.

        Called whenever a rank becomes a replica of the task, so it must do the same everywhere: it may depend on the
        task id, but not on the rank or on time.
        """

    @abstractmethod
    def set_epoch(self, ctx: Context, epoch: Epoch) -> None:
        """Compose the processors and channels of this epoch. Runs on the primary, at the start of each epoch."""

    def exit(self) -> None:
        """Finish. Called on the primary when the job is over and no epoch will run again."""

    def committed(self, epoch: Epoch) -> None:
        """Act on a commit: `epoch` will not run again. Called on the primary.

        Called in order, without gaps, at least once for each epoch: the place for side effects, made idempotent by the
        number of the epoch.
        """

    def became_primary(self) -> None:
        """Take over. Called on a former backup after its state was restored."""

    def became_backup(self) -> None:
        """Become a backup. Called after `init` on a rank that is made a backup while the job runs."""
