"""What changes in etcd mean to a unit: keys in, events of the lifecycle out."""

from __future__ import annotations

from collections.abc import Iterator

from taskgraph.backends.coordinator import Deleted, Event, Put, Reachable, Resync, Unreachable
from taskgraph.ids import Host
from taskgraph.plan import lifecycle, records
from taskgraph.plan.ending import Ending
from taskgraph.plan.records import HOSTS


def hear(news: Event, run: str) -> Iterator[lifecycle.Event]:
    """Say what a change means to a unit of `run`. Keys that mean nothing to it yield nothing."""
    match news:
        case Resync(entries):
            yield _run_event(entries.get(records.RUN), run)
            if records.STATUS in entries:
                yield lifecycle.StatusSeen(ending_of(entries[records.STATUS]))
        case Put(records.RUN, value):
            yield _run_event(value, run)
        case Deleted(records.RUN):
            yield lifecycle.RunIsAbsent()
        case Put(records.STATUS, value):
            yield lifecycle.StatusSeen(ending_of(value))
        case Unreachable(why):
            yield lifecycle.EtcdAway(why)
        case Reachable():
            yield lifecycle.EtcdBack()


def hosts_after(hosts: frozenset[Host] | None, news: Event) -> frozenset[Host] | None:
    """Return the hosts that hold their lease, after a change. None: not known yet."""
    match news:
        case Resync(entries):
            return frozenset(key.removeprefix(HOSTS) for key in entries if key.startswith(HOSTS))
        case Put(key) if key.startswith(HOSTS):
            return (hosts or frozenset()) | {key.removeprefix(HOSTS)}
        case Deleted(key) if key.startswith(HOSTS):
            return (hosts or frozenset()) - {key.removeprefix(HOSTS)}
    return hosts


def ending_of(value: bytes) -> Ending:
    """Read the key ``status``; what cannot be read is a failure too."""
    try:
        return Ending.decode(value)
    except ValueError as error:
        return Ending(status=1, message=f"the job's status in etcd cannot be read: {error}")


def _run_event(value: bytes | None, run: str) -> lifecycle.Event:
    if value is None:
        return lifecycle.RunIsAbsent()
    found = value.decode(errors="replace")
    return lifecycle.RunIsOurs() if found == run else lifecycle.RunIsAnothers(found)
