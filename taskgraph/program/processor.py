"""What a user may compose as a processor, and what the framework keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any, Protocol, TypeAlias

from taskgraph.errors import UsageError
from taskgraph.ids import TaskId
from taskgraph.program.channel import InboundChannel, OutboundChannel

Compute: TypeAlias = Callable[[Any, Any], object]
"""Called as ``compute(ins, outs)``, two tuples of channel ends."""


class HasCompute(Protocol):
    """An object that is a processor."""

    def compute(self, ins: Sequence[InboundChannel], outs: Sequence[OutboundChannel]) -> object:
        """Compute once: get every value that is needed of `ins`, put one into each of `outs`."""


class Processor(Protocol):
    """One firing an epoch. Its identity is its place in the order composed, not the Python object."""

    @property
    def task(self) -> TaskId:
        """The task that composed it."""

    @property
    def index(self) -> int:
        """Its place in the order composed."""

    @property
    def ins(self) -> tuple[Any, ...]:
        """Its in channels."""

    @property
    def outs(self) -> tuple[Any, ...]:
        """Its out channels; none: it is a sync point."""

    compute: Compute


def compute_of(processor: Compute | HasCompute) -> Compute:
    """Return the callable of a processor: its `compute` method, or itself."""
    if type(processor) is MethodType or type(processor) is FunctionType:
        return processor
    compute = getattr(processor, "compute", processor)
    if not callable(compute):
        raise UsageError(
            f"processor={processor!r} is neither callable nor has a compute method: "
            "compose a function of (ins, outs), or an object with compute(ins, outs)"
        )
    return compute
