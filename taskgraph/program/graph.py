"""The graph that all tasks composed together, and whether it fits and can run.

What a task composed is a `TaskGraph`, a plain value. `check` looks at all of them at once: every in channel has its
out channel and the reverse, and no cycle of values and order keeps processors waiting for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from taskgraph.errors import GraphError
from taskgraph.ids import ChannelId, Epoch, Tag, TaskId


class Ends(NamedTuple):
    """The channels of one processor."""

    ins: tuple[ChannelId, ...]
    outs: tuple[ChannelId, ...]


TaskGraph: TypeAlias = tuple[Ends, ...]
"""What one task composed in one epoch, in order."""

Place: TypeAlias = tuple[TaskId, int]
"""A processor: its task and its index in the order composed."""


_SHOWN = 10
"""Tags, and steps of a cycle, that a message names."""


def check(graphs: Mapping[TaskId, TaskGraph], epoch: Epoch) -> None:
    """Find out whether what the tasks composed fits together.

    Parameters
    ----------
    graphs
        Of every task of the job; one that composed nothing may be left out.
    epoch
        Goes into the error.

    Raises
    ------
    GraphError
        Names the task, the channel, and what the other side declared; or the cycle.
    """
    receivers = _places(graphs, "ins")
    senders = _places(graphs, "outs")
    for channel in receivers:
        if channel not in senders:
            raise _unmatched(channel, epoch, channel.destination, channel.source, senders)
    for channel in senders:
        if channel not in receivers:
            raise _unmatched(channel, epoch, channel.source, channel.destination, receivers)
    _check_order(graphs, senders, receivers, epoch)


def _places(graphs: Mapping[TaskId, TaskGraph], side: str) -> dict[ChannelId, Place]:
    return {
        channel: (task, index)
        for task, graph in sorted(graphs.items())
        for index, ends in enumerate(graph)
        for channel in getattr(ends, side)
    }


def _unmatched(
    channel: ChannelId, epoch: Epoch, here: TaskId, there: TaskId, declared: Iterable[ChannelId]
) -> GraphError:
    mine, other = ("in", "out") if here == channel.destination else ("out", "in")
    tags: list[Tag] = [c.tag for c in declared if (c.source, c.destination) == channel[:2]]
    way = "to" if other == "out" else "from"
    more = f" and {len(tags) - _SHOWN} more" if len(tags) > _SHOWN else ""
    said = f"only {', '.join(map(repr, tags[:_SHOWN]))}{more}" if tags else "none"
    return GraphError(
        f"task {here} composed the {mine} channel {channel}, but task {there} composed no {other} channel of that tag "
        f"{way} task {here}: it has {said}",
        task=here,
        epoch=epoch,
        channel=channel,
    )


def _check_order(
    graphs: Mapping[TaskId, TaskGraph],
    senders: Mapping[ChannelId, Place],
    receivers: Mapping[ChannelId, Place],
    epoch: Epoch,
) -> None:
    """Sort the processors so that each comes after its values and after the one composed before it."""
    before: dict[Place, set[Place]] = {}
    for task, graph in graphs.items():
        for index in range(len(graph)):
            before[task, index] = {(task, index - 1)} if index else set()
    for channel, sender in senders.items():
        before[receivers[channel]].add(sender)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        cycle: list[Place] = error.args[1]
        raise _cycle(cycle, senders, receivers, epoch) from None


def _cycle(
    cycle: list[Place], senders: Mapping[ChannelId, Place], receivers: Mapping[ChannelId, Place], epoch: Epoch
) -> GraphError:
    carried = {(sender, receivers[channel]): channel for channel, sender in senders.items()}
    steps = []
    first: ChannelId | None = None
    for here, after in pairwise(cycle):
        channel = carried.get((here, after))
        first = first or channel
        by = f"channel {channel}" if channel is not None else "the order composed"
        steps.append(
            f"processor {here[1]} of task {here[0]} comes before processor {after[1]} of task {after[0]} by {by}"
        )
    more = "; and so on" if len(steps) > _SHOWN else ""
    return GraphError(
        f"the processors wait for each other in a cycle: {'; '.join(steps[:_SHOWN])}{more}",
        task=cycle[0][0],
        epoch=epoch,
        channel=first,
    )
