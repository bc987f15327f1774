"""Calls that reach etcd: whichever endpoint answers, with a valid token, within a time limit.

Each endpoint keeps a gRPC channel of its own, and calls go to the current one until it fails. A call that failed may
have been carried out all the same, so its answer says whether it was repeated.

Every call runs on the thread that makes it, streams too, so each of those is one request and many responses. If gRPC
ran threads of its own for a stream, and the interpreter ended while one of them held the stream's lock, the stream's
finalizer would wait forever.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

# User code may fork; what gRPC does about that is to complain, as its threads run. Nothing of ours is used in a child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.experimental

from taskgraph.backends import etcd_bridge
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, UsageError

log = logging.getLogger(__name__)

ATTEMPT_S = 2.0  # an endpoint that says nothing for so long is left for the next one
LONGEST_PAUSE_S = 0.5

_OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),  # etcd answers pings more frequent than every 5 s with GOAWAY
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),  # a silent watch is a healthy one: its pings must not stop
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # in effect the time that one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # the state of this connection is ours alone
    ("grpc.enable_http_proxy", 0),  # http_proxy of a cluster's login shell is not for its inside
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
]

_STREAMS = ("Watch.Watch", "Lease.LeaseKeepAlive")
"""Methods that are streams."""

_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.ABORTED,
}


class Answer(NamedTuple):
    """What etcd answered, and whether an attempt before may have been carried out as well."""

    message: Any
    repeated: bool


class Endpoint:
    """One address and its channel."""

    def __init__(self, address: str, access: EtcdAccess, rpc: Any) -> None:
        self.address = address
        if access.ca is None:
            self.channel = grpc.insecure_channel(address, options=_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(*(_pem(part) for part in (access.ca, access.key, access.cert)))
            self.channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
        self._stubs = {
            service: getattr(rpc, f"{service}Stub")(self.channel)
            for service in ("KV", "Lease", "Auth", "Cluster", "Maintenance")
        }
        self._streams = {name: self._stream(name, rpc) for name in _STREAMS}

    def method(self, name: str) -> Any:
        """Return the callable of a method such as ``"KV.Range"``."""
        if name in self._streams:
            return self._streams[name]
        service, method = name.split(".")
        return getattr(self._stubs[service], method)

    def _stream(self, name: str, rpc: Any) -> Any:
        _, method = name.split(".")
        return self.channel.unary_stream(
            f"/etcdserverpb.{name.replace('.', '/')}",
            request_serializer=getattr(rpc, f"{method}Request").SerializeToString,
            response_deserializer=getattr(rpc, f"{method}Response").FromString,
        )


class EtcdChannel:
    """A connection to one etcd, of however many members. Safe to use from any thread."""

    def __init__(self, access: EtcdAccess) -> None:
        self.rpc = etcd_bridge.load()
        self._access = access
        self._lock = threading.Lock()
        self._endpoints = [Endpoint(address, access, self.rpc) for address in access.endpoints]
        self._current = 0
        self._token: str | None = None
        self._answered = False
        self._closed = threading.Event()

    def call(self, method: str, request: Any, *, timeout_s: float | None = None, once: bool = False) -> Answer:
        """Call `method` until an endpoint answers.

        Parameters
        ----------
        method
            Such as ``"KV.Range"``; with `request` a message of its type.
        timeout_s
            The limit over all attempts; None: the one of the access.
        once
            Give up when every endpoint has failed once.

        Raises
        ------
        CoordinatorUnreachable
            No endpoint answered in time.
        UsageError
            User, password or permissions are wrong.
        CoordinatorError
            etcd refused the request for another reason, or this channel is closed.
        """
        begin = time.monotonic()
        end = begin + (self._access.timeout_s if timeout_s is None else timeout_s)
        pauses = pauses_between_attempts()
        failures, renewals = 0, 0
        while True:
            endpoint = self.endpoint()
            try:
                message = self._attempt(endpoint, method, request, end)
                self._answered = True
                return Answer(message, failures > 0)
            except grpc.RpcError as error:
                self.failed(endpoint, error, method)
                reason = describe(error)
                if _token_is_stale(error) and renewals < 2:
                    renewals += 1
                    continue
            failures += 1
            round_over = failures % len(self._endpoints) == 0
            left = end - time.monotonic()
            if left <= 0 or (once and round_over):
                hint = self._hint(reason)
                raise CoordinatorUnreachable(self._access.endpoints, time.monotonic() - begin, reason + hint)
            if round_over:
                self._closed.wait(min(next(pauses), left))

    def endpoint(self) -> Endpoint:
        """Return the endpoint that is in use now."""
        return self._endpoints[self._current]

    def failed(self, endpoint: Endpoint, error: grpc.RpcError, method: str) -> None:
        """Turn to the next endpoint, or renew the token, after a call failed; raise what is no passing failure."""
        if self._closed.is_set():
            raise CoordinatorError(f"the connection to etcd was closed during {method}") from error
        if _token_is_stale(error) and self._access.user is not None:
            with self._lock:
                self._token = None
            return
        if not _is_passing(error):
            raise self._refusal(error, method) from error
        with self._lock:
            if endpoint is self._endpoints[self._current] and len(self._endpoints) > 1:
                self._current = (self._current + 1) % len(self._endpoints)
                log.info(
                    "etcd at %s failed (%s), going on with %s",
                    endpoint.address,
                    describe(error),
                    self.endpoint().address,
                )

    def metadata(self, endpoint: Endpoint, timeout_s: float) -> list[tuple[str, str]]:
        """Return what goes with each call: fail where there is no leader, and who is asking."""
        leader = [("hasleader", "true")]
        if self._access.user is None:
            return leader
        token = self._token
        if token is None:
            request = self.rpc.AuthenticateRequest(name=self._access.user, password=self._access.password)
            token = endpoint.method("Auth.Authenticate")(request, timeout=timeout_s, metadata=leader).token
            self._token = token
        return [*leader, ("token", token)]

    def pause(self, seconds: float) -> None:
        """Wait, unless closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """End every call that is under way. Idempotent."""
        self._closed.set()
        for endpoint in self._endpoints:
            endpoint.channel.close()

    def _attempt(self, endpoint: Endpoint, method: str, request: Any, end: float) -> Any:
        if self._closed.is_set():
            raise CoordinatorError(f"the connection to etcd is closed: no {method}")
        timeout = max(0.05, min(ATTEMPT_S, end - time.monotonic()))
        try:
            metadata = self.metadata(endpoint, timeout)
            function = endpoint.method(method)
            if method in _STREAMS:
                stream = function(request, timeout=timeout, metadata=metadata)
                answer = next(stream)
                stream.cancel()
                return answer
            return function(request, timeout=timeout, metadata=metadata)
        except (ValueError, StopIteration) as error:  # gRPC's word for a channel that was closed meanwhile
            raise CoordinatorError(f"the connection to etcd was closed during {method}: {error}") from error

    def _hint(self, reason: str) -> str:
        if "context canceled" in reason:
            return "; etcd's own grpc-proxy, which ends every stream, does not do: name the members themselves"
        if "BAD_CERTIFICATE" in reason or "CERTIFICATE_REQUIRED" in reason:
            return "; etcd asks for a certificate that its authority has signed: name it in etcd_cert and etcd_key"
        if self._answered or self._access.ca is not None or "closed" not in reason:
            return ""
        return "; if it speaks TLS, name its authority's certificate in etcd_ca"

    def _refusal(self, error: grpc.RpcError, method: str) -> Exception:
        details = describe(error)
        where, user = self.endpoint().address, self._access.user
        if "user name is empty" in details or (user is None and _token_is_stale(error)):
            return UsageError(f"etcd at {where} asks for a user: set etcd_user and etcd_password_file")
        if "authentication failed" in details:
            return UsageError(f"etcd at {where} refused etcd_user={user!r}: wrong user or password")
        if "authentication is not enabled" in details:
            return UsageError(
                f"etcd at {where} knows no users: leave etcd_user={user!r} out, or enable its authentication"
            )
        if error.code() == grpc.StatusCode.PERMISSION_DENIED:
            return UsageError(
                f"etcd_user={user!r} lacks permission at {where}: "
                "grant its role 'readwrite' with the prefix /taskgraph/"
            )
        if "too many operations" in details or "request is too large" in details:
            return CoordinatorError(
                f"etcd at {where} takes no request of this size ({details}): start it with a higher "
                "--max-txn-ops and --max-request-bytes"
            )
        return CoordinatorError(f"etcd at {where} refused {method}: {details}")


def pauses_between_attempts() -> Iterator[float]:
    """Yield growing pauses, spread at random so that a thousand ranks do not come back in step."""
    pause = 0.02
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def describe(error: grpc.RpcError) -> str:
    """Say in a few words what gRPC reports at length."""
    code: str = error.code().name
    details = (error.details() or "").rpartition("last error: ")[2]
    details = details.removeprefix("UNKNOWN: ").removeprefix(f"{code}: ").strip()
    return f"{code}: {details[:300]}" if details else code


def _is_passing(error: grpc.RpcError) -> bool:
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return "too many requests" in (error.details() or "")
    return error.code() in _PASSING


def _token_is_stale(error: grpc.RpcError) -> bool:
    return error.code() == grpc.StatusCode.UNAUTHENTICATED or "revision of auth store is old" in (error.details() or "")


def _pem(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
