"""What a unit does from time to time, whatever it hears: keep its host alive, write down who and how far it is."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Protocol

from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.processes import Process
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, RunReplaced, RunWiped
from taskgraph.ids import Epoch, Host
from taskgraph.plan import records
from taskgraph.plan.lifecycle import Unit

log = logging.getLogger(__name__)


class Duty(Protocol):
    """One such thing. Its methods are called by the sidecar's thread only, and only while the run is ours."""

    needs_etcd: bool
    """Whether it waits while etcd is away."""

    def turn(self, coordinator: Coordinator, now: float) -> float:
        """Do what is due. Return the seconds until there is something to do again.

        What it raises as `CoordinatorUnreachable` is tried again soon; anything else is a failure of this unit.
        """

    def finish(self, coordinator: Coordinator) -> None:
        """Do what is to be done last. Not called if etcd is away and needed."""


class Registration:
    """Writes ``ranks/<r>``: where the rank runs, for people and for other units."""

    needs_etcd = True

    def __init__(self, unit: Unit, process: Process) -> None:
        assert unit.rank is not None
        self._key = records.rank_key(unit.rank)
        self._value = json.dumps({"host": unit.host, "pid": process.pid, "start": process.start}).encode()

    def turn(self, coordinator: Coordinator, now: float) -> float:
        """Register, the first time."""
        coordinator.write({self._key: self._value})
        return math.inf

    def finish(self, coordinator: Coordinator) -> None:
        """Leave the entry: the next run of this name clears it away."""


class Show:
    """Shows a person how far the job is.

    Parameters
    ----------
    epoch
        Returns the epoch; None: another rank does this.
    """

    needs_etcd = False
    EVERY_S = 0.1
    ASK_AGAIN_S = 1.0

    def __init__(self, epoch: Callable[[], Epoch | None], show: Callable[[Epoch], None]) -> None:
        self._epoch = epoch
        self._show = show

    def turn(self, coordinator: Coordinator, now: float) -> float:
        """Show it."""
        epoch = self._epoch()
        if epoch is None:
            return self.ASK_AGAIN_S
        self._show(epoch)
        return self.EVERY_S

    def finish(self, coordinator: Coordinator) -> None:
        """Do nothing: who knows that the last epoch is finished shows that."""


class Progress:
    """Writes ``progress`` when it has changed, at most once a second.

    Parameters
    ----------
    epoch
        Returns the epoch; None: another rank does this.
    """

    needs_etcd = True
    EVERY_S = 1.0

    def __init__(self, epoch: Callable[[], Epoch | None]) -> None:
        self._epoch = epoch
        self._written: Epoch | None = None
        self._due = -math.inf

    def turn(self, coordinator: Coordinator, now: float) -> float:
        """Write the epoch, if it is a new one and a second has passed."""
        if now < self._due:
            return self._due - now
        if self._write(coordinator):
            self._due = now + self.EVERY_S
            return self.EVERY_S
        return self.EVERY_S / 4  # nothing tells when the epoch changes: that would cost the main thread time

    def finish(self, coordinator: Coordinator) -> None:
        """Write the last epoch."""
        self._write(coordinator)

    def _write(self, coordinator: Coordinator) -> bool:
        epoch = self._epoch()
        if epoch is None or epoch == self._written:
            return False
        coordinator.write({records.PROGRESS: json.dumps({"epoch": epoch}).encode()})
        self._written = epoch
        return True


class HostLease:
    """Keeps ``hosts/<h>`` there as long as this process lives, and for `ttl_s` seconds after."""

    needs_etcd = True
    AGAIN_S = 0.1

    def __init__(self, host: Host, process: Process, ttl_s: float) -> None:
        self._key = records.host_key(host)
        self._value = json.dumps({"pid": process.pid, "start": process.start}).encode()
        self._ttl_s = ttl_s
        self._lease: int | None = None

    def turn(self, coordinator: Coordinator, now: float) -> float:
        """Renew the lease; where it has expired, open another."""
        if self._lease is None or not coordinator.renew(self._lease):
            self._lease = coordinator.grant(self._ttl_s)
            self._put(coordinator)
        return self._ttl_s / 3 if self._lease is not None else self.AGAIN_S

    def _put(self, coordinator: Coordinator) -> None:
        lease, self._lease = self._lease, None  # an attempt that fails begins with a new lease
        try:
            coordinator.write({self._key: self._value}, lease=lease)
        except (CoordinatorUnreachable, RunReplaced, RunWiped):
            raise
        except CoordinatorError as error:
            log.warning("the lease was over before it was used: %s", error)  # this process was suspended
        else:
            self._lease = lease

    def finish(self, coordinator: Coordinator) -> None:
        """Give the host up now rather than by silence."""
        if self._lease is not None:
            coordinator.revoke(self._lease)
