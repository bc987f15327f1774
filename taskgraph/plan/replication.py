"""Who has which snapshot of the tasks that one rank runs, and who must still get one.

Snapshots are held by hosts, so one backup on each other host gets a copy, and a backup on the primary's host none.
Rule 1: an acknowledgement counts only in its own generation, except that a host that the decision lists as a holder of
the boundary to resume from counts as having acknowledged that. Rule 2: a new holder receives every valid snapshot from
the safe boundary to that one, the oldest first, and none of them counts before that one is there. Rule 3: a change
names its base; the first to a holder in a generation is against the boundary resumed from. Rule 4: a whole slot is
never written again; the copy is acknowledged and dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from taskgraph.ids import Epoch, Host, Rank, TaskId
from taskgraph.plan.decision import Decision
from taskgraph.plan.holdings import Held
from taskgraph.plan.messages import Copy, Topic
from taskgraph.plan.orders import Order, Send, Store


class Sending(NamedTuple):
    """A snapshot to be sent to a backup.

    Attributes
    ----------
    to
        The backup.
    slot
        Which snapshot.
    base
        The receiver has this one: what changed since is enough. None: send the whole.
    """

    to: Rank
    slot: Held
    base: Held | None


class Replication:
    """The holders of the tasks that a rank runs, in one generation.

    Attributes
    ----------
    remote
        Whether any task has a holder on another host. If not, nothing here costs anything.
    newest
        The newest boundary that the own host was said to have of every task.
    """

    def __init__(self, decision: Decision, host: Host, tasks: Sequence[TaskId]) -> None:
        self._decision = decision
        self._backups = {task: other_hosts(decision, host, task) for task in tasks}
        self.remote = any(self._backups.values())
        self.newest = -1
        self._acked = {
            (task, other): decision.boundary if counts_as_held(decision, task, other) else -1
            for task, others in self._backups.items()
            for other in others
        }
        self._base: dict[tuple[TaskId, Host], Held] = {}

    @property
    def safe(self) -> Epoch:
        """The newest boundary that all holders of all tasks have."""
        lowest = min(self.newest, *self._acked.values()) if self._acked else self.newest
        return lowest if lowest >= self._decision.boundary else self._decision.safe

    @property
    def backups(self) -> tuple[tuple[TaskId, Rank, Epoch], ...]:
        """Who gets copies, of which task, and the newest boundary acknowledged."""
        return tuple(
            (task, to, self._acked[task, host]) for task, others in self._backups.items() for host, to in others.items()
        )

    def have(self, boundary: Epoch) -> bool:
        """Tell whether all holders have acknowledged a boundary of this generation, this one or a later."""
        return boundary >= self._decision.boundary and min(self.newest, *self._acked.values(), boundary) == boundary

    def saved(self, slots: Iterable[Held], boundary: Epoch) -> list[Sending]:
        """Note that the own host has every task whole at `boundary`, new `slots` included; return who gets them."""
        self.newest = boundary
        if not self.remote:
            return []
        return [self._send(slot, host, to) for slot in slots for host, to in self._backups[slot.task].items()]

    def refill(self, held: Iterable[Held]) -> list[Sending]:
        """Return what holders lack that the own host already has: to be called once, after a restore."""
        slots = sorted(held, key=lambda slot: slot.boundary)
        sendings = []
        for task, others in self._backups.items():
            own = [slot for slot in slots if slot.task == task]
            for host, to in others.items():
                if self._acked[task, host] < 0:
                    chosen = to_refill(own, self._decision.safe, self._decision.boundary)
                    sendings += [self._send(slot, host, to) for slot in chosen]
                elif own:
                    self._base[task, host] = own[-1]
        return sendings

    def acked(self, task: TaskId, by: Host, boundary: Epoch) -> None:
        """Take an acknowledgement of this generation."""
        if boundary >= self._decision.boundary:
            self._acked[task, by] = max(self._acked[task, by], boundary)

    def _send(self, slot: Held, host: Host, to: Rank) -> Sending:
        base = self._base.get((slot.task, host))
        self._base[slot.task, host] = slot
        return Sending(to, slot, base)


def other_hosts(decision: Decision, host: Host, task: TaskId) -> dict[Host, Rank]:
    """Return the backups that get copies: the first on each other host than the primary's."""
    others: dict[Host, Rank] = {}
    for rank in decision.layout.replicas[task][1:]:
        if decision.host_of[rank] != host:
            others.setdefault(decision.host_of[rank], rank)
    return others


def counts_as_held(decision: Decision, task: TaskId, host: Host) -> bool:
    """Tell whether a host counts as having acknowledged the boundary that the decision resumes from."""
    return host in decision.holders[task]


def to_refill(own: Iterable[Held], safe: Epoch, boundary: Epoch) -> list[Held]:
    """Choose, from the snapshots of a task in their order, what a new holder of it gets."""
    return [slot for slot in own if safe <= slot.boundary <= boundary]


def arrived(source: Rank, slot: Held, base: Held | None, whole: Collection[Held]) -> Order:
    """Say, at a backup, what becomes of a copy that has arrived, where the host has these snapshots whole."""
    copy = Copy(slot.task, slot.boundary).encode()
    if is_duplicate(any(held[:3] == slot[:3] for held in whole)):
        return Send(source, Topic.ACK, copy)
    if base is not None and not has_base(base, whole):
        return Send(source, Topic.WANT_WHOLE, copy)
    return Store(source, slot, base)


def is_duplicate(already_whole: bool) -> bool:
    """Tell whether a snapshot that arrives is only acknowledged, not written."""
    return already_whole


def has_base(base: Held, whole: Iterable[Held]) -> bool:
    """Tell whether a change of `base` can be used by one that has these snapshots."""
    return any(held[:3] == base[:3] for held in whole)
