"""Makes the compiled channel ends and processors of one rank: where a task lives decides how its values travel."""

from __future__ import annotations

from typing import Any

from taskgraph._native.channel import Epoch, InboundChannel, OutboundChannel, Processor
from taskgraph.backends.transport import Transport
from taskgraph.ids import ChannelId, Rank, TaskId
from taskgraph.plan.layout import Layout
from taskgraph.program.channel import channel_key
from taskgraph.program.processor import Compute


class ChannelEnds:
    """The `EndMaker` of a rank, for one layout.

    Parameters
    ----------
    transport
        None in a job of one rank, where every channel is local.
    """

    def __init__(self, rank: Rank, layout: Layout, epoch: Epoch, transport: Transport | None) -> None:
        self._rank = rank
        self._layout = layout
        self._epoch = epoch
        self._transport = transport

    def inbound(self, channel: ChannelId) -> InboundChannel:
        """Return the receiving end; be ready for what the source's rank sends."""
        source = self._layout.primary(channel.source)
        if source != self._rank and self._transport is not None:
            self._transport.peer(source)
        return InboundChannel(self._epoch, channel, channel_key(channel))

    def outbound(self, channel: ChannelId) -> OutboundChannel:
        """Return the sending end."""
        destination = self._layout.primary(channel.destination)
        port = None
        if destination != self._rank and self._transport is not None:
            port = self._transport.peer(destination)
        return OutboundChannel(self._epoch, channel, channel_key(channel), port)

    def processor(
        self, task: TaskId, index: int, compute: Compute, ins: tuple[Any, ...], outs: tuple[Any, ...]
    ) -> Processor:
        """Return a processor."""
        return Processor(task, index, compute, ins, outs)
