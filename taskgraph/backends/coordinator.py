"""What the sidecar needs of a coordination service, whichever it is.

Keys are relative to the job (``"status"``, ``"hosts/n1"``); values are bytes. Every write is conditional on the key
``run`` still holding the identity of this run, so a rank of an old run can do no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Put:
    """`key` has a new value."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Deleted:
    """`key` is gone: deleted, or its lease expired."""

    key: str


@dataclass(frozen=True, slots=True)
class Resync:
    """Events may have been missed: this is everything there is now. Always the first event."""

    entries: Mapping[str, bytes]
    why: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No endpoint answers; the watch goes on trying. Told once per outage, when it begins."""

    why: str


@dataclass(frozen=True, slots=True)
class Reachable:
    """An outage that was told is over; what was missed follows, or has been read again."""


Event = Put | Deleted | Resync | Unreachable | Reachable


class Coordinator(Protocol):
    """A small, watched, transactional store for one run of one job. Every method is safe to call from any thread."""

    def claim(self, run: str) -> None:
        """Make `run` the current run of the job and remove the keys of the one before.

        Raises
        ------
        UsageError
            A run of this name is alive: one of its hosts still holds its lease.
        CoordinatorUnreachable
        """

    def read(self, prefix: str = "") -> Mapping[str, bytes]:
        """Return every key below `prefix` with its value, as of one instant."""

    def write(self, entries: Mapping[str, bytes], *, absent: Collection[str] = (), lease: int | None = None) -> bool:
        """Write all entries in one transaction, if none of the keys in `absent` exists.

        Returns
        -------
        bool
            False where a key of `absent` exists; then nothing was written.

        Raises
        ------
        RunReplaced, RunWiped
            The key ``run`` is not ours any more.
        CoordinatorUnreachable
            Not done within the time limit; whether it was written is not known.
        """

    def remove_run(self) -> bool:
        """Remove every key of this run, if it is still the current one; return False where a host holds its lease."""

    def grant(self, ttl_s: float) -> int:
        """Open a lease of at least `ttl_s` seconds (rounded up to whole ones) and return its id."""

    def renew(self, lease: int) -> bool:
        """Renew a lease for its full time. False where it has expired."""

    def revoke(self, lease: int) -> None:
        """End a lease and its keys now."""

    def news(self, timeout_s: float) -> Sequence[Event]:
        """Return the events since the last call, in order; wait up to `timeout_s` seconds for the first.

        Starts the watch at the first call. One thread only.
        """

    def wake(self) -> None:
        """Make a waiting `news` return at once, with what there is."""

    def close(self) -> None:
        """Stop the watch and close the connection. Idempotent."""
