"""Named points of the runtime, and the one hook that may look at what happens there.

Nobody hooks in unless asked to: an absent hook costs one lookup. The hook is called in the thread that has come to the
point, which may be the sidecar's; what it raises is raised there. That is how failures are injected, and how a run
leaves a proof of what it computed.

==========================  ===========================================================================================
point                       reached
==========================  ===========================================================================================
``epoch``                   an epoch begins; the subject is its number
``compute.begin``           before the code of a processor
``compute.end``             after it: its values are put, but the processor has not returned
``send.put``                after a value was put on its way to another rank
``send.middle``             between the header and the payload of a large value
``send.pending``            all is computed, large values may still be under way
``snapshot.middle``         a slot is filled and not yet whole
``snapshot.whole``          all slots of a snapshot are whole, and nobody has been told
``replicate.begin``         before a copy is sent
``replicate.middle``        between the header and the payload of a copy
``replicate.sent``          after a copy was handed to MPI
``replicate.arrived``       at a backup: a copy is here, and not in its slot
``replicate.filled``        at a backup: it fills its slot, which is not whole yet
``replicate.stored``        at a backup: the copy is whole, and not acknowledged
``commit.said``             after a word of this rank for a commit has left
``commit.heard``            a commit is known here, and not written down
``commit.recorded``         it is written down, and ``committed`` was not called
``commit.exiting``          the last epoch is safe, and ``exit`` was not called
``commit.ending``           after a word of this rank about the end has left
``recovery.floor``          the floor of the host was raised, nothing is published (sidecar)
``recovery.writing``        before one of the writes of a recovery to etcd (sidecar)
``recovery.written``        after one (sidecar)
``recovery.left``           the epoch was left, the decision is awaited
``recovery.decided``        there is a decision, not adopted
``recovery.adopted``        it is adopted, the state is not restored
``recovery.restored``       the state is restored; the subject is the `Decision`
``exit``                    the last epoch is safe, ``exit`` of tasks comes next; the subject is (generation, replicas)
``end``                     this rank leaves; the subject is the `Ending`
==========================  ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable

PHASES = {
    "compute": ("begin", "end"),
    "send": ("put", "middle", "pending"),
    "snapshot": ("middle", "whole"),
    "replicate": ("begin", "middle", "sent", "arrived", "filled", "stored"),
    "commit": ("said", "heard", "recorded", "exiting", "ending"),
    "recovery": ("floor", "writing", "written", "left", "decided", "adopted", "restored"),
}
"""The points where failures may be injected, by phase."""

POINTS = tuple(f"{phase}.{point}" for phase, points in PHASES.items() for point in points)

Hook = Callable[[str, object], None]
"""Called as ``hook(point, subject)``."""

hook: Hook | None = None
"""Who looks. Set before the sidecar starts, and by nobody else."""


def reached(point: str, subject: object = None) -> None:
    """Say that a point was reached."""
    if hook is not None:
        hook(point, subject)
