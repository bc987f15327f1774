"""Each rule of recovery, taken away: the simulator has to notice.

A rule is one named function of `taskgraph.plan`. A mutation puts another in its place, wherever it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from taskgraph.plan import (
    adoption,
    delivery,
    fence,
    grid,
    lineage,
    messages,
    records,
    replication,
    resume,
    succession,
)
from taskgraph.plan.holdings import Held
from taskgraph.plan.messages import Fate
from tests.simulator import main_thread


@dataclass(frozen=True, slots=True)
class Mutation:
    """A rule taken away.

    Attributes
    ----------
    rule
        What is given up.
    instead
        The functions that are the rule, and what stands in for each.
    seed
        A seed whose schedule goes wrong without it.
    """

    rule: str
    instead: dict[Callable[..., Any], Callable[..., Any]]
    seed: int


def _some_tasks(boundary: int, every: int, tasks: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(task for task in tasks if boundary % (every + task % 2) == 0)


def _by_tag(message: main_thread.Message, own: int, tag_bits: int) -> int:
    return own if (message.generation - own) % 2**tag_bits == 0 else message.generation


def _newest_only(own: list[Held], safe: int, boundary: int) -> list[Held]:
    return [slot for slot in own if slot.boundary == boundary]


def _no_fence(own: int, message: int, sender_listed: bool) -> Fate:
    if message == own:
        return Fate.DELIVER
    return Fate.KEEP if message > own else Fate.DRAIN


MUTATIONS = {
    "lineage": Mutation(
        "snapshots of a history that was given up do not count", {lineage.is_valid: lambda b, w, history: True}, 22
    ),
    "freeze": Mutation("below the floor nothing is changed", {fence.may_act: lambda generation, floor: True}, 1855),
    "grid": Mutation("one grid of snapshots for the job", {grid.due: _some_tasks}, 0),
    "room": Mutation("at most three snapshots are kept", {grid.has_room: lambda kept: True}, 4),
    "refill": Mutation(
        "a new holder gets all snapshots since the safe one", {replication.to_refill: _newest_only}, 19203
    ),
    "norewrite": Mutation("a whole slot is not written again", {replication.is_duplicate: lambda whole: False}, 65),
    "base": Mutation("a change without its base is not used", {replication.has_base: lambda base, whole: True}, 0),
    "hook": Mutation(
        "committed goes on from what the snapshot records",
        {delivery.resumes_at: lambda recorded, safe: max(safe, 0)},
        53,
    ),
    "lease": Mutation("a host that is back is not called silent", {records.must_lack: lambda evidence, hosts: ()}, 213),
    "guard": Mutation(
        "an error of a rank that is out of date is dropped",
        {records.must_be_current: lambda rank, generation: ()},
        1962,
    ),
    "fenced": Mutation(
        "a rank that is cut off is told", {messages.fate: _no_fence, adoption.to_be_told: lambda decision: ()}, 75
    ),
    "init0": Mutation("the first boundary counts as held", {resume.first_is_held: lambda safe, first: False}, 18),
    "grace": Mutation("a task whose holders are all gone is lost", {resume.is_lost: lambda hosts, live: False}, 2858),
    "checkpoint": Mutation(
        "where memory holds no newer cut, the newest complete checkpoint does",
        {resume.newer: lambda cut, checkpoint: cut},
        96,
    ),
    "recalled": Mutation(
        "what is made anew is filled from the checkpoint that the decision names",
        {main_thread.source_of: lambda order: None},
        96,
    ),
    "header": Mutation("the header tells the generation, not the tag", {main_thread.told: _by_tag}, 73),
    "stash": Mutation("what comes early is kept", {messages.early: lambda message: Fate.DRAIN}, 0),
    "runguard": Mutation("nothing is written into another's run", {records.belongs: lambda found, ours: True}, 5333),
    "status": Mutation("no generation begins once the job has ended", {records.excluded_by_status: lambda: ()}, 4040),
    "exclusion": Mutation(
        "a generation that is followed by another does not end the job",
        {records.excluded_by_decision: lambda g: ()},
        4872,
    ),
    "answer": Mutation(
        "who knows that the job is over says so", {succession.answers_with_status: lambda over, newest: False}, 16
    ),
}


@contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """Put the replacement wherever the rule is used, for a while."""
    places = [
        (module, name, value)
        for module_name, module in list(sys.modules.items())
        if module_name.startswith(("taskgraph.plan", "tests.simulator")) and module_name != __name__
        for name, value in list(vars(module).items())
        if callable(value) and value in mutation.instead
    ]
    for module, name, value in places:
        setattr(module, name, mutation.instead[value])
    try:
        yield
    finally:
        for module, name, value in places:
            setattr(module, name, value)
