"""A watch on the keys of one job that loses nothing without saying so.

It goes on from the revision after the last event it has delivered, so an outage of etcd costs time but no event. Where
etcd has compacted that revision away, or is not the store it was, everything is read anew and told as `Resync`. A wiped
etcd keeps its cluster id and its revisions soon catch up, so it is known by the key ``run``: its value and the revision
that created it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc

from taskgraph.backends.coordinator import Deleted, Event, Put, Reachable, Resync, Unreachable
from taskgraph.backends.etcd_channel import EtcdChannel, describe, pauses_between_attempts
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, UsageError
from taskgraph.plan.records import RUN

log = logging.getLogger(__name__)


class Inbox:
    """Events on their way from the thread of a watch to the thread that asks for news."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._woken = False
        self._error: Exception | None = None

    def put(self, *events: Event) -> None:
        """Add events, in order."""
        with self._changed:
            self._events.extend(events)
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Let every `take` from now on raise `error`, once the events before it are taken."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def wake(self) -> None:
        """Let the `take` that waits, or else the next one, return at once."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Sequence[Event]:
        """Return all events there are; wait up to `timeout_s` for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._woken or self._error, timeout_s)
            self._woken = False
            if self._error is not None and not self._events:
                raise self._error
            events = list(self._events)
            self._events.clear()
            return events


class EtcdWatch:
    """A thread that follows the keys below `prefix` and puts what happens into `inbox`, until it is closed."""

    def __init__(self, channel: EtcdChannel, prefix: bytes, end: bytes, inbox: Inbox) -> None:
        self._channel = channel
        self._prefix = prefix
        self._end = end
        self._inbox = inbox
        self._revision: int | None = None  # everything up to here has been delivered; None: read anew
        self._why = "start"
        self._run: tuple[bytes, int] | None = None  # value of the key run and the revision that created it
        self._outage = False
        self._closed = False
        self._stream: Any = None
        self._thread = threading.Thread(target=self._follow, name="taskgraph-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the channel must be closed as well, before or after."""
        self._closed = True
        stream = self._stream
        if stream is not None:
            stream.cancel()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _follow(self) -> None:
        pauses = pauses_between_attempts()
        while not self._closed:
            begin = time.monotonic()
            try:
                self._catch_up()
                self._stream_events()
            except CoordinatorUnreachable as error:
                self._tell_outage(str(error))
            except (CoordinatorError, UsageError) as error:
                if not self._closed:
                    self._inbox.fail(error)
                return
            if time.monotonic() - begin > 1:
                pauses = pauses_between_attempts()
            if not self._closed:
                self._channel.pause(next(pauses))

    def _catch_up(self) -> None:
        """Make sure that an endpoint answers and that `_revision` is one of the store behind it."""
        if self._revision is not None:
            self._check_store()
        if self._revision is None:
            self._read_anew()

    def _read_anew(self) -> None:
        request = self._channel.rpc.RangeRequest(key=self._prefix, range_end=self._end)
        found = self._channel.call("KV.Range", request, once=True).message
        self._tell_reachable()
        self._run = next(((kv.value, kv.create_revision) for kv in found.kvs if self._key(kv) == RUN), None)
        self._revision = found.header.revision
        self._inbox.put(Resync({self._key(kv): kv.value for kv in found.kvs}, self._why))

    def _check_store(self) -> None:
        """Forget the revision where the store is not the one it belongs to."""
        request = self._channel.rpc.RangeRequest(key=self._prefix + RUN.encode())
        found = self._channel.call("KV.Range", request, once=True).message
        run = next(((kv.value, kv.create_revision) for kv in found.kvs), None)
        assert self._revision is not None
        if found.header.revision < self._revision:
            self._start_over(f"etcd went back from revision {self._revision} to {found.header.revision}")
        elif run != self._run:
            self._start_over("the key run is not what it was" if run else "the key run is gone")

    def _start_over(self, why: str) -> None:
        log.warning("reading every key of the job again: %s", why)
        self._revision, self._why = None, why

    def _stream_events(self) -> None:
        """Deliver events until the stream breaks."""
        endpoint = self._channel.endpoint()
        try:
            metadata = self._channel.metadata(endpoint, 2.0)
            self._stream = endpoint.method("Watch.Watch")(self._create_request(), metadata=metadata)
            if self._closed:  # it may have been closed before there was a stream to cancel
                return
            for response in self._stream:
                if not self._take(response):
                    return
        except grpc.RpcError as error:
            if not self._closed:
                log.debug("the watch broke: %s", describe(error))
                self._channel.failed(endpoint, error, "Watch.Watch")
        except ValueError:  # gRPC's word for a channel that was closed meanwhile
            self._closed = True
        finally:
            if self._stream is not None:
                self._stream.cancel()

    def _create_request(self) -> Any:
        rpc = self._channel.rpc
        assert self._revision is not None
        create = rpc.WatchCreateRequest(key=self._prefix, range_end=self._end, start_revision=self._revision + 1)
        return rpc.WatchRequest(create_request=create)

    def _take(self, response: Any) -> bool:
        """Deliver one response; False where the stream is of no more use."""
        if response.compact_revision:
            self._start_over(f"etcd compacted its history up to revision {response.compact_revision}")
            return False
        if response.canceled:
            if "permission denied" in response.cancel_reason:
                raise UsageError("the etcd user may not watch: grant its role 'readwrite' with the prefix /taskgraph/")
            log.info("etcd ended the watch: %s", response.cancel_reason)
            return False
        if response.created:
            self._check_store()  # only now: a store that is wiped after this breaks the stream
            if self._revision is None:
                return False
            self._tell_reachable()
        # The header's revision may lie beyond events that are still to come; only events themselves count.
        self._inbox.put(*(self._event(event) for event in response.events))
        if response.events:
            self._revision = max(event.kv.mod_revision for event in response.events)
        return True

    def _event(self, event: Any) -> Event:
        key = self._key(event.kv)
        deleted = event.type == event.DELETE
        if key == RUN:
            self._run = None if deleted else (event.kv.value, event.kv.create_revision)
        return Deleted(key) if deleted else Put(key, event.kv.value)

    def _key(self, kv: Any) -> str:
        key: str = kv.key[len(self._prefix) :].decode()
        return key

    def _tell_outage(self, why: str) -> None:
        if not self._outage:
            self._outage = True
            self._inbox.put(Unreachable(why))

    def _tell_reachable(self) -> None:
        if self._outage:
            self._outage = False
            self._inbox.put(Reachable())
