"""The epochs of a rank: composed, computed, and, while nothing else happens, committed one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized

from taskgraph import trace
from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph._native.committer import LEFT, NOT_DONE
from taskgraph._native.steady import Steady
from taskgraph.backends.transport import Transport
from taskgraph.errors import EpochAborted
from taskgraph.ids import Epoch
from taskgraph.plan.holdings import NO_END
from taskgraph.plan.orders import Orders
from taskgraph.plan.steady_member import SteadyMember
from taskgraph.run.state.replicas import Replicas
from taskgraph.run.state.snapshots import Snapshots
from taskgraph.run.worker.composing import Composing
from taskgraph.run.worker.control import NAP_S, Control


class Epochs:
    """Runs the epochs of one rank.

    Parameters
    ----------
    member
        Is told that an epoch is finished, unless compiled code commits it.
    queue
        Where messages for the member wait while nothing is computed.
    handle_all
        Handles those.
    obey
        Carries orders out.

    Attributes
    ----------
    are_computing
        Whether messages are handled as they come.
    are_committing
        Whether compiled code waits for a commit: a copy that is only to be stored may be.
    """

    def __init__(
        self,
        member: SteadyMember,
        replicas: Replicas,
        composing: Composing,
        native: NativeEpoch,
        transport: Transport | None,
        snapshots: Snapshots,
        control: Control,
        queue: Sized,
        handle_all: Callable[[], None],
        obey: Callable[[Orders], Orders],
    ) -> None:
        self._member = member
        self._replicas = replicas
        self._composing = composing
        self._native = native
        self._transport = transport
        self._snapshots = snapshots
        self._control = control
        self._queue = queue
        self._handle_all = handle_all
        self._obey = obey
        self._committer = None if transport is None else snapshots.committer(transport, queue)
        self.are_computing = self.are_committing = False

    def run(self, epoch: Epoch) -> Orders:
        """Run an epoch, and as many more as are committed here. Returns what the member says of the last."""
        steady = self._settle()
        hearing = [replica.id for replica in self._replicas.primaries if replica.hears_commits]
        told = -1 if steady is None else steady.safe
        has_backups = self._transport is not None and self._member.has_backups
        while True:
            idle = self._compute(epoch)
            if has_backups and self._member.is_behind:
                self._look()
            if steady is None or self._committer is None or self._replicas.asked != NO_END:
                break
            self.are_committing = True
            done = self._committer.commit(idle)
            self.are_committing = False
            if done == NOT_DONE:
                break
            if done == LEFT:
                return ()
            if hearing:
                safe = steady.safe
                for task in hearing:
                    self._replicas.committed(task, told, safe)
                    self._check_floor()
                told = safe
            epoch += 1
        return self._member.finished(idle, self._replicas.asked)

    def interrupted(self) -> None:
        """Take that the generation is over."""
        self.are_computing = self.are_committing = False
        if self._committer is not None:
            self._committer.end()

    def _check_floor(self) -> None:
        """Leave the generation where it is over: before each act, as the worker does before each order."""
        if not self._snapshots.admits(self._member.generation):  # `plan.fence.may_act`
            raise EpochAborted

    def _settle(self) -> Steady | None:
        """Let compiled code commit from here on, if it can, and return what it goes by."""
        steady = self._member.steady
        if self._committer is None or not isinstance(steady, Steady):
            return None
        writers = self._snapshots.writers(replica.id for replica in self._replicas.primaries)
        if writers is None:
            return None
        copy = self._copy if self._member.has_backups else None
        keepers = self._snapshots.keepers(replica.id for replica in self._replicas if replica.context is None)
        self._committer.begin(steady, self._member.generation, writers, copy, keepers)
        return steady

    def _copy(self, boundary: Epoch) -> None:
        """Send the snapshots of a boundary, which compiled code has taken, to those who get them."""
        self._obey(self._member.copies(boundary))

    def _compute(self, epoch: Epoch) -> bool:
        """Run an epoch up to its commit; return whether no task composed anything."""
        if not self._control.begins(epoch):
            self._wait_to_begin(epoch)
        self._native.enter(epoch)
        if trace.hook is not None:
            trace.hook("epoch", epoch)
        idle = self._composing.compose(epoch)
        self._native.begin(epoch)
        self.are_computing = True
        if self._queue:
            self._handle_all()
        self._native.run()
        if self._transport is not None:
            if trace.hook is not None:
                trace.hook("send.pending", None)
            self._transport.finish_sends()
        self.are_computing = False
        return idle

    def _look(self) -> None:
        """Hear, before this rank says that it has finished, which copies have been acknowledged meanwhile."""
        assert self._transport is not None
        self.are_computing = True
        self._transport.drain()
        self.are_computing = False

    def _wait_to_begin(self, epoch: Epoch) -> None:
        """Answer messages, as in an epoch that takes its time, until the next may begin."""
        assert self._transport is not None
        self.are_computing = True
        self._handle_all()
        while not self._control.begins(epoch):
            if not self._transport.serve():
                time.sleep(NAP_S)
        self.are_computing = False
