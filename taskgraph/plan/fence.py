"""Whose word still counts on a host: a floor under the generations, which only rises.

It rises when a tombstone starts the next generation, before what is whole is published, and with each decision. From
then on a rank of an older generation changes nothing more: it does not begin, complete, acknowledge or free a snapshot,
contribute to or act on a commit, or call ``committed``. For slots the look at the floor and the change are one atomic
step; for everything else the look comes immediately before.
"""

from __future__ import annotations

from taskgraph.ids import Generation


def may_act(generation: Generation, floor: Generation) -> bool:
    """Tell whether a rank of `generation` may still change anything on a host with this floor."""
    return generation >= floor
