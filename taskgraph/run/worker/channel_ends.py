"""Makes the compiled channel ends and processors of one rank, and says where a task lives: how its values travel."""

from __future__ import annotations

from typing import Any

from taskgraph._native.channel import Epoch, InboundChannel, OutboundChannel, Port, Processor
from taskgraph.backends.transport import Transport
from taskgraph.ids import ChannelId, Rank, TaskId
from taskgraph.plan.layout import Layout
from taskgraph.program.channel import channel_key
from taskgraph.program.processor import Compute


class ChannelEnds:
    """The `EndMaker` of a rank. Ends outlive layouts: the way to a task is looked up when a graph is connected."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def inbound(self, channel: ChannelId) -> InboundChannel:
        """Return the receiving end."""
        return InboundChannel(self._epoch, channel, channel_key(channel))

    def outbound(self, channel: ChannelId) -> OutboundChannel:
        """Return the sending end."""
        return OutboundChannel(self._epoch, channel, channel_key(channel))

    def processor(
        self, task: TaskId, index: int, compute: Compute, ins: tuple[Any, ...], outs: tuple[Any, ...]
    ) -> Processor:
        """Return a processor."""
        return Processor(task, index, compute, ins, outs)


class Ways:
    """From a rank to the tasks of one layout.

    Parameters
    ----------
    transport
        None in a job of one rank, where every task is here.
    """

    def __init__(self, rank: Rank, layout: Layout, transport: Transport | None) -> None:
        self._layout = layout
        self._rank = rank
        self._transport = transport
        self._ports: dict[TaskId, Port | None] = {}

    def to(self, task: TaskId) -> Port | None:
        """Return the port to a task, ready for what comes from there as well; None: the task is on this rank."""
        if task not in self._ports:
            primary = self._layout.primary(task)
            port = None
            if primary != self._rank and self._transport is not None:
                port = self._transport.peer(primary)
            self._ports[task] = port
        return self._ports[task]
