"""A coordinator in the memory of one process: it behaves as the one on etcd does, by a clock of the test's own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from taskgraph.backends.coordinator import Event, Reachable, Resync, Unreachable
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, RunReplaced, RunWiped, UsageError
from taskgraph.plan.records import HOSTS, RUN
from taskgraph.testing.memory_store import MemoryStore

__all__ = ["MemoryCoordinator", "MemoryStore"]


class MemoryCoordinator:
    """A `taskgraph.backends.coordinator.Coordinator` on a `MemoryStore`.

    Parameters
    ----------
    store
        The job's keys.
    run
        The run that another coordinator claimed; None where this one is going to.
    """

    def __init__(self, store: MemoryStore, run: str | None = None) -> None:
        self._store = store
        self._run = run
        self._news: deque[Event] | None = None
        self._synced = False
        self._woken = False
        self._closed = False

    def claim(self, run: str) -> None:
        """Make `run` the current run of the job and remove the keys of the one before."""
        with self._store.changed:
            self._begin()
            if self._store.get(RUN) != run.encode():
                hosts = [key.removeprefix(HOSTS) for key in self._store.names() if key.startswith(HOSTS)]
                if hosts:
                    raise UsageError(
                        f"a run of this name is alive on {', '.join(sorted(hosts))}: end it, or take another name"
                    )
                for key in self._store.names():
                    if key != RUN:
                        self._store.remove(key)
                self._store.put(RUN, run.encode())
            self._run = run

    def read(self, prefix: str = "") -> Mapping[str, bytes]:
        """Return every key below `prefix` with its value, as of one instant."""
        with self._store.changed:
            self._begin()
            entries = self._store.snapshot("read").entries
            return {key: value for key, value in entries.items() if key.startswith(prefix)}

    def write(self, entries: Mapping[str, bytes], *, absent: Collection[str] = (), lease: int | None = None) -> bool:
        """Write all entries in one transaction, if none of the keys in `absent` exists."""
        with self._store.changed:
            self._begin()
            self._check_run()
            if any(self._store.get(key) is not None for key in absent):
                return False
            for key, value in entries.items():
                self._store.put(key, value, lease)
            return True

    def remove_run(self) -> bool:
        """Remove every key of this run, if it is still the current one; return False where a host holds its lease."""
        with self._store.changed:
            self._begin()
            if self._store.get(RUN) == self._own_run():
                if any(key.startswith(HOSTS) for key in self._store.names()):
                    return False
                for key in self._store.names():
                    self._store.remove(key)
            return True

    def grant(self, ttl_s: float) -> int:
        """Open a lease of at least `ttl_s` seconds (rounded up to whole ones) and return its id."""
        with self._store.changed:
            self._begin()
            return self._store.grant(ttl_s)

    def renew(self, lease: int) -> bool:
        """Renew a lease for its full time. False where it has expired."""
        with self._store.changed:
            self._begin()
            return self._store.renew(lease)

    def revoke(self, lease: int) -> None:
        """End a lease and its keys now."""
        with self._store.changed:
            self._begin()
            self._store.end_lease(lease)

    def news(self, timeout_s: float) -> Sequence[Event]:
        """Return the events since the last call, in order; wait up to `timeout_s` seconds for the first."""
        deadline = time.monotonic() + timeout_s
        with self._store.changed:
            if self._closed:
                raise CoordinatorError("this coordinator is closed")
            news = self._start_watch() if self._news is None else self._news
            self._store.tick()
            while not (news or self._woken or self._closed) and (left := deadline - time.monotonic()) > 0:
                self._store.changed.wait(min(left, max(self._store.next_end_s(), 0.01)))
                self._store.tick()
            self._woken = False
            events = list(news)
            news.clear()
            return events

    def wake(self) -> None:
        """Make a waiting `news` return at once, with what there is; where none waits, the next one does."""
        with self._store.changed:
            self._woken = True
            self._store.changed.notify_all()

    def close(self) -> None:
        """Stop the watch. Idempotent."""
        with self._store.changed:
            self._closed = True
            self._store.changed.notify_all()

    def _start_watch(self) -> deque[Event]:
        self._news = deque()
        if self._store.stopped:
            self._news.append(Unreachable("the store is stopped"))
        else:
            self._hear(self._store.snapshot("start"))
        self._store.subscribe(self._hear)
        return self._news

    def _hear(self, event: Event) -> None:
        assert self._news is not None
        self._news.append(event)
        if isinstance(event, Reachable) and not self._synced:  # the watch began in an outage
            self._news.append(self._store.snapshot("start"))
        self._synced = self._synced or isinstance(event, Resync | Reachable)

    def _begin(self) -> None:
        if self._closed:
            raise CoordinatorError("this coordinator is closed")
        if self._store.stopped:
            raise CoordinatorUnreachable(("memory",), 0.0, "the store is stopped")
        self._store.tick()

    def _check_run(self) -> None:
        own, found = self._own_run(), self._store.get(RUN)
        if found is None:
            raise RunWiped("the keys of this run are gone: the store was wiped, or the run removed")
        if found != own:
            raise RunReplaced(f"another run has taken over: {found.decode()}")

    def _own_run(self) -> bytes:
        if self._run is None:
            raise UsageError("this coordinator has no run: claim one, or name it when it is made")
        return self._run.encode()
