"""Checkpoints in the world: written from slots that are held back, complete in a store that nothing befalls.

As in `taskgraph.run.checkpoints.writer`: the first boundary of a generation is known to all, later ones are asked for;
who hears too late fails the round. A file is written some time after its boundary is safe, the manifest some time after
the last file, and etcd hears of it some time after that; at each of these moments the writer may be gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskgraph.plan import records
from taskgraph.plan.checkpoints import next_boundary
from taskgraph.plan.decision import Decision
from taskgraph.plan.manifest import Name
from tests.simulator.parts import Rank

if TYPE_CHECKING:
    from tests.simulator.world import World

RUN = "0" * 16


class Checkpoints:
    """The store, and all that write to it.

    Attributes
    ----------
    complete
        By name: state and `delivered` of each task.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._every = world.schedule.checkpoint_every
        self.complete: dict[Name, dict[int, tuple[int, int]]] = {}
        self._files: dict[Name, dict[int, tuple[int, int]]] = {}
        self._wanted: dict[int, Name] = {}
        self._written: set[tuple[int, Name]] = set()

    def adopted(self, rank: Rank, decision: Decision) -> None:
        """Let a rank know the first boundary of a generation."""
        if self._every:
            self._want(rank, Name(next_boundary(decision.boundary, 0, self._every), RUN, decision.generation))

    def _want(self, rank: Rank, name: Name) -> None:
        if rank.runs and rank.member.generation == name.generation:
            self._wanted[rank.number] = name
            rank.host.held_back = name.boundary

    def recorded(self, rank: Rank, safe: int) -> None:
        """Write the files of a rank's tasks, if the boundary that is wanted is safe."""
        name = self._wanted.get(rank.number)
        if name is None or safe < name.boundary or (rank.number, name) in self._written:
            return
        self._written.add((rank.number, name))
        for task in self._decision(name).layout.primaries_of(rank.number):
            self._world.after(self._world.delay(), self._write, rank, name, task)

    def _decision(self, name: Name) -> Decision:
        return self._world.checks.decisions[name.generation]

    def _write(self, rank: Rank, name: Name, task: int) -> None:
        slot = rank.host.slots.get((task, name.boundary, name.generation))
        if not rank.runs or self._wanted.get(rank.number) != name:
            return
        root = self._world.ranks[self._decision(name).live[0]]
        if slot is None or not slot.whole or self._world.rng.random() < 0.02:  # too late, or the store is full
            self._world.stats["checkpoints failed"] += 1
            self._world.after(self._world.delay(2), self._ask, root, name)
            return
        files = self._files.setdefault(name, {})
        files[task] = (slot.value, slot.delivered)
        if len(files) == self._world.schedule.tasks:
            self._world.after(self._world.delay(), self._finish, root, name)

    def _finish(self, root: Rank, name: Name) -> None:
        """Put the manifest in place, then say so."""
        if not root.runs or root.unit is None or self._wanted.get(root.number) != name:
            return
        world = self._world
        self.complete[name] = self._files[name]
        world.log("checkpoint %s is complete", name)
        world.units.transact(root.unit, records.complete(name))
        world.after(world.delay(2), self._ask, root, name)

    def _ask(self, root: Rank, before: Name) -> None:
        """Ask for the next boundary."""
        if not root.runs or self._wanted.get(root.number) != before:
            return
        name = before._replace(boundary=next_boundary(root.member.boundary, 1, self._every))
        for number in self._decision(name).live:
            self._world.after(self._world.delay(0.5), self._want, self._world.ranks[number], name)
