"""What one unit knows of deaths that etcd does not know of yet.

One event is one transaction, refused as a whole when another unit was first with a part of it: then the rest is said
again. An accusation because of an expired lease is dropped when the lease is back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from taskgraph.ids import Host, Rank
from taskgraph.plan.evidence import Evidence, Tombstone, Work
from taskgraph.plan.records import Write, bury


@dataclass(frozen=True, slots=True)
class _Accusation:
    tombstone: Tombstone
    host: Host | None
    refused: bool = False

    @property
    def write(self) -> Write:
        return bury(self.tombstone, () if self.host is None else (self.host,))


class Accusations:
    """The ranks that a unit says are dead, and that have no tombstone."""

    def __init__(self, reporter: str) -> None:
        self._reporter = reporter
        self._pending: list[_Accusation] = []
        self._held: dict[Rank, float] = {}

    @property
    def are_pending(self) -> bool:
        """Whether there is any, those held back included."""
        return bool(self._pending or self._held)

    def hold(self, ranks: Iterable[Rank], dead: Collection[Rank], at: float) -> list[Rank]:
        """Note that MPI reports ranks as failed; return for which `release` is to be called in a moment."""
        fresh = [rank for rank in ranks if rank not in dead and rank not in self._held]
        self._held.update(dict.fromkeys(fresh, at))
        return fresh

    def release(self, rank: Rank, dead: Collection[Rank]) -> list[Write]:
        """Say what MPI reports of a rank, if nobody has said more by now; return what is to be written.

        It takes all that are held along: a host that is gone takes many ranks, and each of them is one event to MPI.
        """
        if rank not in self._held:
            return []
        held, self._held = self._held, {}
        return self.add(held, dead, Evidence.PEER, "", min(held.values()))

    def add(
        self,
        ranks: Iterable[Rank],
        dead: Collection[Rank],
        evidence: Evidence,
        detail: str,
        at: float,
        host: Host | None = None,
        working: Work | None = None,
    ) -> list[Write]:
        """Take what was found out; return what is to be written.

        Parameters
        ----------
        dead
            Ranks that have a tombstone.
        host
            Whose lease expired, where that is the evidence.
        working
            What the dead were at, where that was seen.
        """
        said = {rank for accusation in self._pending for rank in accusation.tombstone.ranks}
        fresh = tuple(sorted(rank for rank in ranks if rank not in dead and rank not in said))
        if not fresh:
            return []
        accusation = _Accusation(Tombstone(fresh, evidence, self._reporter, detail, at, working), host)
        self._pending.append(accusation)
        return [accusation.write]

    def refused(self, write: Write) -> None:
        """Note that etcd refused a transaction."""
        self._pending = [
            replace(accusation, refused=True) if accusation.write == write else accusation
            for accusation in self._pending
        ]

    def left(self, dead: Collection[Rank], silent: Collection[Host]) -> list[Write]:
        """Drop what etcd knows by now, and leases that are back; return what is to be written again."""
        writes = []
        pending = []
        for accusation in self._pending:
            old = accusation.tombstone
            ranks = tuple(rank for rank in old.ranks if rank not in dead)
            is_back = accusation.host is not None and accusation.host not in silent
            if not ranks or (accusation.refused and is_back):
                continue
            if accusation.refused and ranks != old.ranks:
                accusation = _Accusation(replace(old, ranks=ranks), accusation.host)
                writes.append(accusation.write)
            pending.append(accusation)
        self._pending = pending
        return writes
