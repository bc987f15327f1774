"""What several memory coordinators share: the keys and leases of one job, and outages at will."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from taskgraph.backends.coordinator import Deleted, Event, Put, Reachable, Resync, Unreachable
from taskgraph.errors import CoordinatorError


@dataclass(slots=True)
class _Entry:
    value: bytes
    lease: int | None


@dataclass(slots=True)
class _Lease:
    ttl_s: int
    ends: float


class MemoryStore:
    """The keys of one job, for any number of `MemoryCoordinator`.

    Parameters
    ----------
    clock
        What leases run by, in seconds. After a clock of a test was moved, call `tick`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._leases: dict[int, _Lease] = {}
        self._granted = 0
        self._watchers: list[Callable[[Event], None]] = []
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether there is an outage."""
        return self._stopped

    def stop(self) -> None:
        """Begin an outage: every operation fails, every watch is told."""
        with self.changed:
            self.tick()
            if not self._stopped:
                self._stopped = True
                self._tell(Unreachable("the store is stopped"))

    def start(self) -> None:
        """End the outage. As with etcd, each lease has its full time from here."""
        with self.changed:
            if self._stopped:
                self._stopped = False
                for lease in self._leases.values():
                    lease.ends = self._clock() + lease.ttl_s
                self._tell(Reachable())

    def wipe(self) -> None:
        """Lose everything, the key ``run`` included."""
        with self.changed:
            self._entries.clear()
            self._leases.clear()
            self.compact("the store was wiped")

    def compact(self, why: str = "the history was compacted") -> None:
        """Make every watch read everything again."""
        with self.changed:
            self.tick()
            self._tell(self.snapshot(why))

    def tick(self) -> None:
        """Let the leases end whose time is over."""
        with self.changed:
            now = self._clock()
            if not self._stopped:
                for lease in [number for number, held in self._leases.items() if held.ends <= now]:
                    self.end_lease(lease)

    def next_end_s(self) -> float:
        """Return the seconds until the next lease ends; infinite where there is none."""
        now = self._clock()
        return min((lease.ends - now for lease in self._leases.values()), default=math.inf)

    def snapshot(self, why: str) -> Resync:
        """Return everything there is, as an event."""
        return Resync({key: entry.value for key, entry in self._entries.items()}, why)

    def subscribe(self, watcher: Callable[[Event], None]) -> None:
        """Tell `watcher` of every event from now on."""
        self._watchers.append(watcher)

    def get(self, key: str) -> bytes | None:
        """Return a value, None where there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def names(self) -> Collection[str]:
        """Return all keys."""
        return list(self._entries)

    def put(self, key: str, value: bytes, lease: int | None = None) -> None:
        """Set a value and tell it."""
        if lease is not None and lease not in self._leases:
            raise CoordinatorError(f"lease {lease} is not there: it has expired or was revoked")
        self._entries[key] = _Entry(value, lease)
        self._tell(Put(key, value))

    def remove(self, key: str) -> None:
        """Remove a key, if it is there, and tell it."""
        if self._entries.pop(key, None) is not None:
            self._tell(Deleted(key))

    def grant(self, ttl_s: float) -> int:
        """Open a lease."""
        self._granted += 1
        whole = math.ceil(ttl_s)
        self._leases[self._granted] = _Lease(whole, self._clock() + whole)
        self.changed.notify_all()
        return self._granted

    def renew(self, lease: int) -> bool:
        """Renew a lease. False where it is gone."""
        held = self._leases.get(lease)
        if held is not None:
            held.ends = self._clock() + held.ttl_s
        return held is not None

    def end_lease(self, lease: int) -> None:
        """End a lease, and its keys."""
        if self._leases.pop(lease, None) is not None:
            for key in [key for key, entry in self._entries.items() if entry.lease == lease]:
                self.remove(key)

    def _tell(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher(event)
        self.changed.notify_all()
