"""The coordinator of a job, kept in etcd below ``/taskgraph/<job>/``.

Every write is one transaction that compares the key ``run`` first. A write whose first attempt got no answer is
repeated; where the repetition finds its own values there already, the first attempt had been carried out.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from taskgraph.backends.coordinator import Event
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.etcd_channel import EtcdChannel, pauses_between_attempts
from taskgraph.backends.etcd_watch import EtcdWatch, Inbox
from taskgraph.errors import CoordinatorError, CoordinatorUnreachable, RunReplaced, RunWiped, UsageError
from taskgraph.plan.records import HOSTS, RUN
from taskgraph.plan.relaunch import is_successor

log = logging.getLogger(__name__)

_MOST_OPERATIONS = 128  # what a server takes in one transaction, unless it was told otherwise


class EtcdCoordinator:
    """A `taskgraph.backends.coordinator.Coordinator` on one etcd. It connects at the first call, not here.

    Parameters
    ----------
    access
        Where etcd is and who asks. Its `timeout_s` limits each operation.
    job
        The job's name.
    run
        The run that was claimed by another process; None where this one is going to `claim`, or only reads.
    """

    def __init__(self, access: EtcdAccess, job: str, run: str | None = None) -> None:
        self._job = job
        self._run = run
        self._prefix = f"/taskgraph/{job}/".encode()
        self._channel = EtcdChannel(access)
        self._rpc = self._channel.rpc
        self._inbox = Inbox()
        self._watch: EtcdWatch | None = None
        self._closing = threading.Lock()

    def claim(self, run: str) -> None:
        """Make `run` the current run of the job and remove the keys of the one before."""
        self._warn_of_releases_that_corrupt()
        for pause in pauses_between_attempts():
            found = {self._key(kv): kv for kv in self._range("").kvs}
            current = found.get(RUN)
            if current is None or current.value != run.encode():
                inherits = current is not None and is_successor(run, current.value.decode(errors="replace"))
                if not inherits:
                    self._refuse_where_alive(found)
                if not self._take_over(run, current.mod_revision if current is not None else 0, inherits):
                    self._channel.pause(pause)  # somebody else was faster: look again
                    continue
            self._run = run
            return

    def read(self, prefix: str = "") -> Mapping[str, bytes]:
        """Return every key below `prefix` with its value, as of one instant."""
        return {self._key(kv): kv.value for kv in self._range(prefix).kvs}

    def write(self, entries: Mapping[str, bytes], *, absent: Collection[str] = (), lease: int | None = None) -> bool:
        """Write all entries in one transaction, if none of the keys in `absent` exists."""
        puts = [
            self._rpc.RequestOp(
                request_put=self._rpc.PutRequest(key=self._full(key), value=value, lease=0 if lease is None else lease)
            )
            for key, value in entries.items()
        ]
        succeeded, repeated = self._transact(puts, absent)
        return succeeded or (repeated and self._was_written(entries, absent))

    def remove_run(self) -> bool:
        """Remove every key of this run, if it is still the current one; return False where a host holds its lease."""
        everything = self._deletion(self._prefix, _end_of(self._prefix))
        try:
            return self._transact([everything], [HOSTS])[0]
        except (RunReplaced, RunWiped):
            return True

    def grant(self, ttl_s: float) -> int:
        """Open a lease of at least `ttl_s` seconds (rounded up to whole ones) and return its id."""
        request = self._rpc.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        return int(self._channel.call("Lease.LeaseGrant", request).message.ID)

    def renew(self, lease: int) -> bool:
        """Renew a lease for its full time. False where it has expired."""
        request = self._rpc.LeaseKeepAliveRequest(ID=lease)
        return bool(self._channel.call("Lease.LeaseKeepAlive", request).message.TTL > 0)

    def revoke(self, lease: int) -> None:
        """End a lease and its keys now."""
        try:
            self._channel.call("Lease.LeaseRevoke", self._rpc.LeaseRevokeRequest(ID=lease))
        except CoordinatorError as error:
            if "lease not found" not in str(error):
                raise

    def news(self, timeout_s: float) -> Sequence[Event]:
        """Return the events since the last call, in order; wait up to `timeout_s` seconds for the first.

        Raises
        ------
        UsageError, CoordinatorError
            The watch was refused for good; an outage is no error but an event.
        """
        with self._closing:
            if self._watch is None:
                self._watch = EtcdWatch(self._channel, self._prefix, _end_of(self._prefix), self._inbox)
        return self._inbox.take(timeout_s)

    def wake(self) -> None:
        """Make a waiting `news` return at once, with what there is; where none waits, the next one does."""
        self._inbox.wake()

    def close(self) -> None:
        """Stop the watch and close the connection. Idempotent."""
        self._channel.close()
        with self._closing:
            if self._watch is not None:
                self._watch.close()
        self._inbox.fail(CoordinatorError("the connection to etcd is closed"))

    def _transact(self, operations: Sequence[Any], absent: Collection[str]) -> tuple[bool, bool]:
        """Carry out `operations` if the run is ours and no key of `absent` exists, nor any below one ending in a slash.

        Returns
        -------
        tuple[bool, bool]
            Whether they were carried out, and whether an attempt before may have been.
        """
        rpc = self._rpc
        keys = map(self._full, absent)
        absences = [self._is_absent(key, _end_of(key) if key.endswith(b"/") else b"") for key in keys]
        compare = [self._run_is_ours(), *absences]
        look = rpc.RequestOp(request_range=rpc.RangeRequest(key=self._full(RUN)))
        request = rpc.TxnRequest(compare=compare, success=self._grouped(operations, len(compare)), failure=[look])
        answer = self._channel.call("KV.Txn", request)
        if answer.message.succeeded:
            return True, answer.repeated
        self._check_run(answer.message.responses[0].response_range.kvs)
        return False, answer.repeated

    def _grouped(self, operations: Sequence[Any], comparisons: int) -> Sequence[Any]:
        """Nest operations that are too many for one transaction into several, which are carried out as one."""
        if len(operations) <= _MOST_OPERATIONS:
            return operations
        groups = max(comparisons, _MOST_OPERATIONS // 2)
        size = _MOST_OPERATIONS - groups  # a server counts the level above against the ones below
        if size < 1 or size * groups < len(operations):
            return operations  # let the server say whether it takes more
        parts = (operations[first : first + size] for first in range(0, len(operations), size))
        return [self._rpc.RequestOp(request_txn=self._rpc.TxnRequest(success=part)) for part in parts]

    def _was_written(self, entries: Mapping[str, bytes], absent: Collection[str]) -> bool:
        """Tell whether a write that found a key of `absent` had only met itself."""
        marks = [key for key in entries if key in absent] or list(entries)
        now = self.read()
        return all(now.get(key) == entries[key] for key in marks)

    def _check_run(self, found: Sequence[Any]) -> None:
        if not found:
            raise RunWiped(f"the keys of job {self._job!r} are gone: etcd lost its data, or the run was removed")
        if found[0].value.decode() != self._run:
            raise RunReplaced(f"another run of job {self._job!r} has taken over: {found[0].value.decode()}")

    def _refuse_where_alive(self, found: Mapping[str, Any]) -> None:
        hosts = sorted(key.removeprefix(HOSTS) for key in found if key.startswith(HOSTS))
        if hosts:
            raise UsageError(
                f"name={self._job!r} is taken: a run of it is alive on {', '.join(hosts)}; end that one or give this "
                "job another name (a run that was killed frees its name when its lease ends: seconds after)"
            )

    def _take_over(self, run: str, mod_revision: int, inherits: bool) -> bool:
        """Replace every key of the job by the one key ``run``, unless somebody was faster or a host turned up.

        The hosts of an earlier attempt of the same run do not count: they are fenced by this.
        """
        rpc = self._rpc
        run_key, hosts = self._full(RUN), self._full(HOSTS)
        request = rpc.TxnRequest(
            compare=[
                rpc.Compare(key=run_key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=mod_revision),
                *([] if inherits else [self._is_absent(hosts, _end_of(hosts))]),
            ],
            success=[  # a transaction may not delete and put the same key, so the deletions leave it out
                self._deletion(self._prefix, run_key),
                self._deletion(run_key + b"\0", _end_of(self._prefix)),
                rpc.RequestOp(request_put=rpc.PutRequest(key=run_key, value=run.encode())),
            ],
        )
        return bool(self._channel.call("KV.Txn", request).message.succeeded)

    def _run_is_ours(self) -> Any:
        if self._run is None:
            raise UsageError(f"this coordinator of job {self._job!r} has no run: claim one, or name it when it is made")
        compare = self._rpc.Compare
        return compare(key=self._full(RUN), target=compare.VALUE, result=compare.EQUAL, value=self._run.encode())

    def _is_absent(self, key: bytes, end: bytes = b"") -> Any:
        compare = self._rpc.Compare
        return compare(key=key, range_end=end, target=compare.CREATE, result=compare.EQUAL, create_revision=0)

    def _deletion(self, key: bytes, end: bytes = b"") -> Any:
        return self._rpc.RequestOp(request_delete_range=self._rpc.DeleteRangeRequest(key=key, range_end=end))

    def _range(self, prefix: str) -> Any:
        key = self._full(prefix)
        return self._channel.call("KV.Range", self._rpc.RangeRequest(key=key, range_end=_end_of(key))).message

    def _full(self, key: str) -> bytes:
        return self._prefix + key.encode()

    def _key(self, kv: Any) -> str:
        key: str = kv.key[len(self._prefix) :].decode()
        return key

    def _warn_of_releases_that_corrupt(self) -> None:
        try:
            members = len(self._channel.call("Cluster.MemberList", self._rpc.MemberListRequest()).message.members)
            version = self._channel.call("Maintenance.Status", self._rpc.StatusRequest()).message.version
        except CoordinatorUnreachable:
            raise
        except (CoordinatorError, UsageError) as error:  # not every user may ask; what else is wrong shows soon
            log.debug("the release of etcd is not known: %s", error)
            return
        if members > 1 and re.fullmatch(r"3\.5\.[0-2]", version):
            log.warning(
                "etcd %s can corrupt its data where it has several members (%d): use 3.5.3 or newer", version, members
            )


def _end_of(prefix: bytes) -> bytes:
    """Return the first key after all that begin with `prefix`, which ends in no 0xff here."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
