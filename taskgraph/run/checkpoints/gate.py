"""Where the root of a job that is to pause stops: at a boundary, before it begins the next epoch.

Nobody else has to be told. An epoch is committed only when the root has finished it as well, so no rank gets further
than into the epoch that the root does not begin, and nothing of that counts. While the gate is shut messages are
answered, so that snapshots reach their backups; a failure, or the end of the job, ends the wait.
"""

from __future__ import annotations

from taskgraph.ids import Epoch


class Gate:
    """Between the main thread of a rank, which asks before each epoch, and the thread that writes checkpoints.

    Parameters
    ----------
    every
        Epochs between two snapshots: at other boundaries nobody is stopped, there is nothing to write.

    Attributes
    ----------
    begun
        The newest epoch that was begun in this generation; -1: none yet.
    waiting
        The boundary at which the main thread waits.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self.is_shut = False
        self.begun: Epoch = -1
        self.waiting: Epoch | None = None

    def shut(self) -> None:
        """Let no epoch begin from now on."""
        self.is_shut = True

    def open(self) -> None:
        """Let the job go on."""
        self.is_shut = False

    def entered(self) -> None:
        """Note that a generation was adopted: what went before it counts no more."""
        self.begun, self.waiting = -1, None

    def may_begin(self, epoch: Epoch) -> bool:
        """Tell whether the main thread may begin an epoch, which it then does; if not, it asks again."""
        if self.is_shut and epoch % self._every == 0:
            self.waiting = epoch
            return False
        self.begun, self.waiting = epoch, None
        return True
