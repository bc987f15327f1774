"""Read what a run has left as a proof, and judge it by that of a run without failures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan.faults import Fault, parse

_LOST = "all copies of task "
"""How the message begins that a job ends with where no holder of some task is left."""


class Verdict(Enum):
    """What a run with failures was worth."""

    RIGHT = "right"
    LOST = "lost"
    """It ended with the message that no holder of some task was left, on every rank."""
    WRONG = "WRONG"
    HUNG = "HUNG"
    DIRTY = "DIRTY"
    """It left processes or files behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the ranks of one run wrote down.

    Attributes
    ----------
    hosts
        The host of each rank.
    digests
        By task, every digest of its final state: more than one where ``exit`` was called again after a failure.
    ends
        Status and message, by rank.
    hits
        Faults that have hit, and at which point.
    generations
        By generation: the longest time that a rank was out of its epochs for it, in milliseconds.
    epochs
        How many were run.
    """

    hosts: tuple[str, ...]
    tasks: int
    backups: int
    digests: Mapping[TaskId, frozenset[str]]
    ends: Mapping[Rank, tuple[int, str]]
    hits: tuple[tuple[str, str], ...]
    generations: Mapping[Generation, float]
    epochs: Epoch

    @property
    def victims(self) -> frozenset[Rank]:
        """The ranks that faults were to take."""
        faults = [fault for text, _ in self.hits for fault in parse(text) if isinstance(fault, Fault)]
        names = list(dict.fromkeys(self.hosts))
        taken = {fault.rank for fault in faults if fault.rank is not None and fault.action != "kill-keeper"}
        hosts = {
            names[fault.host] if fault.host is not None else self.hosts[fault.rank or 0]
            for fault in faults
            if fault.action == "kill-host"
        }
        return frozenset(taken | {rank for rank, host in enumerate(self.hosts) if host in hosts})

    @property
    def ms_lost(self) -> float:
        """Milliseconds out of epochs, over all generations."""
        return sum(self.generations.values())


def read(directory: Path) -> Proof:
    """Read the files of all ranks of one run.

    Raises
    ------
    ValueError
        There are none: the job did not start.
    """
    lines: list[tuple[Rank, dict[str, Any]]] = []
    for path in sorted(directory.glob("rank-*.jsonl")):
        rank = int(path.name.split("-")[1].split(".")[0])
        lines += [(rank, json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    of = {event: [(rank, line) for rank, line in lines if line["event"] == event] for event in _EVENTS}
    if not of["start"]:
        raise ValueError("the job did not start, or it is no job of taskgraph")
    first = of["start"][0][1]
    generations: dict[Generation, float] = {}
    for _, line in of["generation"]:
        generations[line["generation"]] = max(line["ms"], generations.get(line["generation"], 0.0))
    digests: dict[TaskId, set[str]] = {}
    for _, line in of["state"]:
        digests.setdefault(line["task"], set()).add(line["digest"])
    return Proof(
        hosts=tuple(first["hosts"]),
        tasks=first["tasks"],
        backups=first["backups"],
        digests={task: frozenset(some) for task, some in digests.items()},
        ends={rank: (line["status"], line["message"]) for rank, line in of["end"]},
        hits=tuple((line["fault"], line["point"]) for _, line in of["fault"]),
        generations=generations,
        epochs=max((line["epochs"] for _, line in of["state"]), default=0),
    )


_EVENTS = ("start", "generation", "state", "fault", "end")


def judge(reference: Proof, proof: Proof) -> tuple[Verdict, str]:
    """Compare a run with failures with one without, bit for bit; say why where it is not right."""
    if not proof.ends:
        return Verdict.WRONG, "no rank came to the end"
    messages = {message for _, message in proof.ends.values() if message}
    statuses = {status for status, _ in proof.ends.values()}
    lost = [message for message in messages if message.startswith(_LOST)]
    if lost:
        alike = statuses == {1} and len(messages) == 1
        return (Verdict.LOST, lost[0]) if alike else (Verdict.WRONG, f"ranks disagree on the end: {proof.ends}")
    silent = set(range(len(proof.hosts))) - proof.ends.keys() - proof.victims
    if silent and not any(statuses):  # after a failure the launcher kills who is not fast enough
        return Verdict.WRONG, f"ranks {_listed(silent)} did not come to the end, and no fault took them"
    if statuses != {status for status, _ in reference.ends.values()}:
        return Verdict.WRONG, f"it ended with status {_listed(statuses)}: {'; '.join(sorted(messages))}"
    missing = [task for task in range(reference.tasks) if task not in proof.digests]
    if missing:
        return Verdict.WRONG, f"no final state of tasks {_listed(missing)}"
    other = [task for task in range(reference.tasks) if proof.digests[task] != reference.digests[task]]
    if other:
        return Verdict.WRONG, f"another final state of tasks {_listed(other)}"
    return Verdict.RIGHT, ""


def _listed(some: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(some)))
