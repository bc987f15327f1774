"""The last host of a run removes its keys from the user's etcd; the job's own goes with the job.

A host gives its lease up when nothing of it is left. Whoever finds that no host of the run has one removes everything,
in the transaction that looks. Where a host was lost with its keeper, its lease has to run out first.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from taskgraph.errors import TaskgraphError

if TYPE_CHECKING:
    from taskgraph.backends.coordinator import Coordinator

log = logging.getLogger(__name__)

AGAIN_S = 0.2
SLACK_S = 2.0
"""How much longer than a lease the others are waited for, in seconds: etcd is late to end one."""


def remove_keys(coordinator: Coordinator, lease_s: float) -> bool:
    """Remove the keys of a run, unless a host still holds its lease; return whether none is left.

    Parameters
    ----------
    coordinator
        Of that run. It is closed.
    lease_s
        How long a lease of a host that was lost may last.
    """
    until = time.monotonic() + lease_s + SLACK_S
    try:
        while not (removed := coordinator.remove_run()) and time.monotonic() < until:
            time.sleep(AGAIN_S)
    except TaskgraphError as error:  # it is away: nobody waits for it any more
        log.warning("keys of this run stay in etcd: %s", error)
        return False
    finally:
        coordinator.close()
    if not removed:
        log.warning("keys of this run stay in etcd: a host of it is alive")
    return removed
