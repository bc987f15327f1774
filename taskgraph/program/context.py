"""What a task may ask of an epoch: its neighbors, its channels, its random numbers, and to compose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np

from taskgraph.errors import GraphError, UsageError
from taskgraph.ids import ChannelId, Epoch, Tag, TaskId
from taskgraph.program.channel import InboundChannel, OutboundChannel, checked_tag
from taskgraph.program.graph import Ends, TaskGraph
from taskgraph.program.processor import Compute, HasCompute, Processor, compute_of
from taskgraph.program.topology import Linkage, Static

_ROOM = 1024
"""The cache of channel ends is cleared when it holds this many more than four times the number composed."""


class EndMaker(Protocol):
    """Makes the compiled objects behind a composition. Injected, so that this layer knows no transport."""

    def inbound(self, channel: ChannelId) -> InboundChannel:
        """Return the receiving end of a channel."""

    def outbound(self, channel: ChannelId) -> OutboundChannel:
        """Return the sending end of a channel."""

    def processor(
        self, task: TaskId, index: int, compute: Compute, ins: tuple[Any, ...], outs: tuple[Any, ...]
    ) -> Processor:
        """Return a processor."""


class Context:
    """Handed to `Task.set_epoch`: the same object as long as this rank runs the task. So are the channels it returns.

    A composition that repeats the one of the epoch before costs a comparison: nothing is made, sent or checked again.

    Attributes
    ----------
    epoch : int
        The epoch being composed or computed.
    """

    def __init__(
        self,
        task_id: TaskId,
        num_tasks: int,
        linkages: Mapping[str, Linkage],
        seed: int,
        shutdown: Callable[[int], None],
        maker: EndMaker,
    ) -> None:
        self.epoch: Epoch = -1
        self._task = task_id
        self._num_tasks = num_tasks
        self._linkages = linkages
        self._varying = {name for name, linkage in linkages.items() if not isinstance(linkage, Static)}
        self._seed = seed
        self._shutdown = shutdown
        self._maker = maker
        self._rng: np.random.Generator | None = None
        self._composing = False
        self._count = 0
        self._changed = False
        self._processors: list[Any] = []
        self._neighbors: dict[str, tuple[TaskId, ...]] = {}
        self._inbound: dict[tuple[Any, Tag], Any] = {}
        self._outbound: dict[tuple[Any, Tag], Any] = {}
        self._room = _ROOM

    def neighbors(self, linkage: str) -> tuple[TaskId, ...]:
        """Return the ids of the tasks that `linkage` links this one to, in this epoch."""
        known = self._neighbors.get(linkage)
        return known if known is not None else self._ask(linkage)

    @overload
    def inbound(self, task: TaskId, tag: Tag) -> InboundChannel: ...
    @overload
    def inbound(self, task: Iterable[TaskId], tag: Tag) -> list[InboundChannel]: ...

    def inbound(self, task: TaskId | Iterable[TaskId], tag: Tag) -> InboundChannel | list[InboundChannel]:
        """Return the channel from a task, or the list of channels from several, in the order given.

        Raises
        ------
        UsageError
            A task id out of range, or a tag that is neither str nor int.
        """
        try:
            known = self._inbound.get((task, tag))
        except TypeError:  # a list of tasks
            known = None
        if known is None:
            known = self._make(self._inbound, "inbound", task, tag)
        return list(known) if type(known) is tuple else known

    @overload
    def outbound(self, task: TaskId, tag: Tag) -> OutboundChannel: ...
    @overload
    def outbound(self, task: Iterable[TaskId], tag: Tag) -> list[OutboundChannel]: ...

    def outbound(self, task: TaskId | Iterable[TaskId], tag: Tag) -> OutboundChannel | list[OutboundChannel]:
        """Return the channel to a task, or the list of channels to several, in the order given.

        Raises
        ------
        UsageError
            A task id out of range, or a tag that is neither str nor int.
        """
        try:
            known = self._outbound.get((task, tag))
        except TypeError:  # a list of tasks
            known = None
        if known is None:
            known = self._make(self._outbound, "outbound", task, tag)
        return list(known) if type(known) is tuple else known

    def compose(
        self,
        processor: Compute | HasCompute,
        ins: InboundChannel | Sequence[InboundChannel] = (),
        outs: OutboundChannel | Sequence[OutboundChannel] = (),
    ) -> None:
        """Add a processor to this epoch. It computes once, after the ones composed before it.

        Parameters
        ----------
        processor
            A callable of ``(ins, outs)``, or an object with ``compute(ins, outs)``. Both arguments are tuples.
        ins, outs
            Channels of `inbound` and `outbound`: one, or several. A processor without `outs` is a sync point.

        Raises
        ------
        UsageError
            Called outside `set_epoch`, or given something that is not a channel of this task in that direction.
        GraphError
            A channel that another processor of this epoch has already.
        """
        if not self._composing:
            raise UsageError(
                "compose was called outside set_epoch: the graph of an epoch is fixed when set_epoch returns"
            )
        ins_ = tuple(ins) if type(ins) is list or type(ins) is tuple else _several(ins)
        outs_ = tuple(outs) if type(outs) is list or type(outs) is tuple else _several(outs)
        at = self._count
        self._count = at + 1
        if at < len(self._processors):
            known = self._processors[at]
            if known.ins == ins_ and known.outs == outs_:
                known.compute = compute_of(processor)
                return
        self._replace(at, compute_of(processor), ins_, outs_)

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers of this task in this epoch: the same after a rollback, and on any rank."""
        if self._rng is None:
            self._rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self._task, self.epoch)))
        return self._rng

    def shutdown(self, status: int = 0) -> None:
        """Make this epoch the last one: it is finished everywhere, then `exit` is called and `Job.start` returns.

        Parameters
        ----------
        status
            What `Job.start` returns on every rank, 0 to 255; of several the highest wins.
        """
        self._shutdown(status)

    def begin(self, epoch: Epoch) -> None:
        """Open the composition of an epoch. For the framework."""
        self.epoch = epoch
        self._rng = None
        self._count = 0
        self._changed = False
        self._composing = True
        if len(self._inbound) + len(self._outbound) > self._room:  # tags that change every epoch would pile up
            self._inbound.clear()
            self._outbound.clear()
        if self._varying:
            self._neighbors = {name: ids for name, ids in self._neighbors.items() if name not in self._varying}

    def begin_anew(self) -> None:
        """Forget what was composed: tasks have moved, so nothing is connected any more. For the framework."""
        self._composing = False
        self._processors = []

    def finish(self) -> bool:
        """Close the composition; return whether it differs from the one before. For the framework."""
        self._composing = False
        if self._count < len(self._processors):
            del self._processors[self._count :]
            self._changed = True
        if self._changed:
            self._check_once()
            self._room = _ROOM + 4 * sum(len(p.ins) + len(p.outs) for p in self._processors)
        return self._changed

    @property
    def processors(self) -> list[Any]:
        """The processors of this epoch, in the order composed. For the framework."""
        return list(self._processors)

    @property
    def is_idle(self) -> bool:
        """Whether nothing was composed. For the framework."""
        return not self._processors

    def declaration(self) -> TaskGraph:
        """Return the composition as a plain value. For the framework."""
        return tuple(Ends(tuple(c.id for c in p.ins), tuple(c.id for c in p.outs)) for p in self._processors)

    def _ask(self, linkage: str) -> tuple[TaskId, ...]:
        if linkage not in self._linkages:
            known = ", ".join(map(repr, self._linkages)) or "none: call add_topology or add_linkage before start"
            raise UsageError(
                f"linkage {linkage!r} is unknown to task {self._task}, epoch {self.epoch}; known are {known}"
            )
        found = self._linkages[linkage](self._task, self._num_tasks, self.epoch)
        if not isinstance(found, Iterable):
            raise UsageError(f"linkage {linkage!r} returned {found!r} for task {self._task}: it has to return task ids")
        ids = tuple(self._task_id(task, f"linkage {linkage!r}") for task in found)
        self._neighbors[linkage] = ids
        return ids

    def _task_id(self, task: Any, source: str) -> TaskId:
        try:
            number = task.__index__()
        except AttributeError:
            raise UsageError(f"{source}: {task!r} is not a task id") from None
        if not 0 <= number < self._num_tasks:
            raise UsageError(f"{source}: task {number} is out of range, there are tasks 0 to {self._num_tasks - 1}")
        return int(number)

    def _make(self, known: dict[Any, Any], call: str, task: Any, tag: Tag) -> Any:
        """Return the end for a task, or a tuple of ends for several; each is made once."""
        tag = checked_tag(tag)
        if isinstance(task, Iterable) and not isinstance(task, str) and getattr(task, "ndim", True):
            tasks = tuple(self._task_id(one, call) for one in task)
            ends = tuple(known.get((one, tag)) or self._make(known, call, one, tag) for one in tasks)
            known[tasks, tag] = ends
            return ends
        other = self._task_id(task, call)
        if (other, tag) not in known:
            channel = ChannelId(other, self._task, tag) if call == "inbound" else ChannelId(self._task, other, tag)
            known[other, tag] = getattr(self._maker, call)(channel)
        return known[other, tag]

    def _replace(self, at: int, compute: Compute, ins: tuple[Any, ...], outs: tuple[Any, ...]) -> None:
        for channels, call, wanted in ((ins, "inbound", "destination"), (outs, "outbound", "source")):
            for channel in channels:
                if not hasattr(channel, "id") or hasattr(channel, "get") != (call == "inbound"):
                    raise UsageError(f"compose was given {channel!r} where a channel of ctx.{call} belongs")
                if getattr(channel.id, wanted) != self._task:
                    raise UsageError(f"compose was given {channel!r}, a channel of another task")
        made = self._maker.processor(self._task, at, compute, ins, outs)
        self._processors[at : at + 1] = [made]
        self._changed = True

    def _check_once(self) -> None:
        seen: dict[tuple[bool, ChannelId], int] = {}
        for processor in self._processors:
            for end in (*((True, c.id) for c in processor.ins), *((False, c.id) for c in processor.outs)):
                if end in seen:
                    by = dict.fromkeys((seen[end], processor.index))
                    raise GraphError(
                        f"channel {end[1]} was composed twice, by processor{'s' * (len(by) > 1)} "
                        f"{' and '.join(map(str, by))} of task {self._task}: a channel end belongs to one processor",
                        task=self._task,
                        epoch=self.epoch,
                        channel=end[1],
                    )
                seen[end] = processor.index


def _several(channels: Any) -> tuple[Any, ...]:
    """Return one channel, or any other iterable of channels, as a tuple."""
    if isinstance(channels, Iterable):
        return tuple(channels)
    return (channels,)
