"""Failures on purpose: ``Job(..., faults=[kill_at(rank=3, epoch=5)])``, or ``TASKGRAPH_FAULTS`` for any driver.

Each of these functions returns a value whose text is what the environment variable takes. A fault hits once in the
life of a job, at a named phase of the work: ``compute``, ``send``, ``snapshot``, ``replicate``, ``commit`` or
``recovery``, or at one point of a phase (`taskgraph.trace` has the list), such as ``send.middle``.
"""

from __future__ import annotations

from taskgraph.ids import Epoch, Rank
from taskgraph.plan.faults import Action, Draw, Fault


def kill_at(rank: Rank, epoch: Epoch, phase: str = "compute", *, nth: int = 1, or_later: bool = False) -> Fault:
    """Kill a rank with SIGKILL.

    Parameters
    ----------
    rank
        Which one.
    epoch
        In which epoch. For phase ``recovery``: in the first recovery from then on.
    phase
        Where: one of ``taskgraph.trace.PHASES``, or a point of one.
    nth
        Hit the nth time that the rank comes there in that epoch, counted from 1.
    or_later
        If it does not come there in that epoch, a later one will do.
    """
    return _of_rank("kill", rank, epoch, phase, nth, or_later)


def stop_at(rank: Rank, epoch: Epoch, phase: str = "compute", *, nth: int = 1, or_later: bool = False) -> Fault:
    """Stop a rank with SIGSTOP; it is declared dead after a while. Parameters as for `kill_at`."""
    return _of_rank("stop", rank, epoch, phase, nth, or_later)


def exit_at(rank: Rank, epoch: Epoch, phase: str = "compute", *, nth: int = 1, or_later: bool = False) -> Fault:
    """Let a rank call ``os._exit(3)``. Parameters as for `kill_at`."""
    return _of_rank("exit", rank, epoch, phase, nth, or_later)


def raise_at(rank: Rank, epoch: Epoch, phase: str = "compute", *, nth: int = 1, or_later: bool = False) -> Fault:
    """Raise an exception in the place of user code, which ends the job. Parameters as for `kill_at`."""
    return _of_rank("raise", rank, epoch, phase, nth, or_later)


def kill_host(
    host: int | None = None,
    *,
    rank: Rank | None = None,
    epoch: Epoch,
    phase: str = "compute",
    nth: int = 1,
    or_later: bool = False,
) -> Fault:
    """Kill all ranks of a host, and its keeper, at one moment.

    Parameters
    ----------
    host
        Its number, in the order of first ranks. The first of its ranks to come to the point triggers the fault.
    rank
        Instead of `host`: a rank of it, the one that has to come there.
    """
    return Fault(action="kill-host", rank=rank, host=host, epoch=epoch, phase=phase, nth=nth, or_later=or_later)


def kill_keeper(
    host: int | None = None,
    *,
    rank: Rank | None = None,
    epoch: Epoch,
    phase: str = "compute",
    nth: int = 1,
    or_later: bool = False,
) -> Fault:
    """Kill the keeper of a host, and no rank. Parameters as for `kill_host`."""
    return Fault(action="kill-keeper", rank=rank, host=host, epoch=epoch, phase=phase, nth=nth, or_later=or_later)


def by_seed(seed: int, kills: int = 1, *, hosts: bool = False, epochs: int | None = None) -> Draw:
    """Kill ranks that the seed chooses, at phases that it chooses.

    Parameters
    ----------
    kills
        How many times.
    hosts
        Whether a kill may take a whole host.
    epochs
        The kills fall into the first so many epochs; None: anywhere in the job.
    """
    return Draw(seed, kills, hosts, epochs)


def _of_rank(action: Action, rank: Rank, epoch: Epoch, phase: str, nth: int, or_later: bool) -> Fault:
    return Fault(action=action, rank=rank, epoch=epoch, phase=phase, nth=nth, or_later=or_later)
