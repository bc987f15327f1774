"""Which snapshots belong to the history that is still true.

A snapshot of boundary ``b``, written in generation ``w``, is valid as long as no later generation resumed below ``b``:
such a resumption runs the epochs again that led to ``b``, and what was written before belongs to a history that was
given up. Deterministic user code does not make this unnecessary: a rank that was cut off may have computed with memory
that a restore had already overwritten, and its snapshot has a good checksum all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from taskgraph.ids import Epoch, Generation

History: TypeAlias = Mapping[Generation, Epoch]
"""The boundary that each generation resumed from, up to now. Never shortened."""


def is_valid(boundary: Epoch, written: Generation, history: History) -> bool:
    """Tell whether what generation `written` knew of `boundary` is still true."""
    return all(resumed >= boundary for generation, resumed in history.items() if generation > written)


def still_true(boundary: Epoch, known: Generation, history: History) -> Epoch:
    """Return what is left of "`boundary` is safe", said in generation `known`: a later one may have resumed below."""
    return min([boundary, *(resumed for generation, resumed in history.items() if generation > known)])
