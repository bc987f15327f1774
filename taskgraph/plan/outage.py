"""When a job gives up on an etcd that is away.

A job that runs well does not need etcd: it may be away as long as it likes. What makes the difference is whether
anything waits for it.
"""

from __future__ import annotations

STILL_S = 600.0
"""How long nothing may progress while the user's etcd is away, in seconds."""


def gives_up(away_s: float, still_s: float, *, own: bool, failure_known: bool, lost_after_s: float) -> bool:
    """Tell whether the job ends because etcd is away.

    Parameters
    ----------
    away_s
        Seconds since etcd last answered.
    still_s
        Seconds since this rank last finished an epoch.
    own
        The job brought its etcd itself; else it is the user's, who may take their time.
    failure_known
        A rank is dead, so that a new generation is due.
    lost_after_s
        The option `etcd_lost_after_s`.
    """
    if own or failure_known:
        return away_s > lost_after_s
    return min(away_s, still_s) > STILL_S
