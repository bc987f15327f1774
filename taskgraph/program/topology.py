"""Who is whose neighbor: ready-made linkages for the common shapes, checked against the number of tasks.

A linkage answers "who are the neighbors of this task, at this epoch"; a topology is a set of linkages that belong
together, under their names. Every linkage here is `Static`: it need be asked only once for each task.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taskgraph.errors import UsageError
from taskgraph.ids import Epoch, TaskId

__all__ = ["Adjacency", "Full", "Grid", "Hypercube", "Linkage", "Ring", "Star", "Static", "Topology", "Tree"]

Linkage: TypeAlias = Callable[[TaskId, int, Epoch], Sequence[TaskId]]
"""Called with ``(task_id, num_tasks, epoch)``; returns the ids of the task's neighbors."""


class Topology(Protocol):
    """What ``Job.add_topology`` takes. Any object with this method will do."""

    def linkages(self, num_tasks: int) -> Mapping[str, Linkage]:
        """Return the linkages by name. Raises UsageError where the shape does not fit `num_tasks`."""
        ...


class Static:
    """A linkage that is the same at every epoch.

    Parameters
    ----------
    num_tasks
        The number of tasks that it was made for.
    neighbors
        Called with a task id, once for each id at most; returns the ids of its neighbors.
    """

    __slots__ = ("_known", "_neighbors", "_num_tasks")

    def __init__(self, num_tasks: int, neighbors: Callable[[TaskId], Iterable[TaskId]]) -> None:
        self._num_tasks = num_tasks
        self._neighbors = neighbors
        # Filled as asked: a rank asks for its own few tasks, and all of `Full` would be num_tasks squared.
        self._known: dict[TaskId, tuple[TaskId, ...]] = {}

    def __call__(self, task_id: TaskId, num_tasks: int, epoch: Epoch) -> tuple[TaskId, ...]:
        """Return the neighbors of a task. Raises UsageError for another number of tasks, or no task of these."""
        if num_tasks != self._num_tasks:
            raise UsageError(f"num_tasks={num_tasks}: this linkage was made for {self._num_tasks} tasks")
        known = self._known.get(task_id)
        if known is None:
            if not 0 <= task_id < num_tasks:
                raise UsageError(f"task_id={task_id} is out of range: the tasks are 0 to {num_tasks - 1}")
            known = self._known[task_id] = tuple(map(operator.index, self._neighbors(task_id)))
        return known


@dataclass(frozen=True, slots=True)
class Tree:
    """A complete tree with root 0: ``parents`` (none or one) and ``children`` (at most `fanout`)."""

    fanout: int = 2

    def __post_init__(self) -> None:
        _integer("fanout", self.fanout, at_least=1)

    def linkages(self, num_tasks: int) -> dict[str, Linkage]:
        """Return ``parents`` and ``children``."""

        def parents(task: TaskId) -> Iterable[TaskId]:
            return [(task - 1) // self.fanout] if task else []

        def children(task: TaskId) -> Iterable[TaskId]:
            first = task * self.fanout + 1
            return range(first, min(first + self.fanout, num_tasks))

        return {"parents": Static(num_tasks, parents), "children": Static(num_tasks, children)}


@dataclass(frozen=True, slots=True)
class Star:
    """One task in the middle: ``leaves`` are all others, seen from it; ``center`` is it, seen from them."""

    center: TaskId = 0

    def __post_init__(self) -> None:
        _integer("center", self.center, at_least=0)

    def linkages(self, num_tasks: int) -> dict[str, Linkage]:
        """Return ``center`` and ``leaves``. Raises UsageError where the center is no task."""
        if self.center >= num_tasks:
            raise UsageError(f"center={self.center} is no task of num_tasks={num_tasks}: use 0 to {num_tasks - 1}")

        def center(task: TaskId) -> Iterable[TaskId]:
            return [] if task == self.center else [self.center]

        def leaves(task: TaskId) -> Iterable[TaskId]:
            return _others(task, num_tasks) if task == self.center else []

        return {"center": Static(num_tasks, center), "leaves": Static(num_tasks, leaves)}


@dataclass(frozen=True, slots=True)
class Ring:
    """A closed ring: ``left`` is the task before, ``right`` the one after. A ring of one task is its own neighbor."""

    def linkages(self, num_tasks: int) -> dict[str, Linkage]:
        """Return ``left`` and ``right``."""
        return {
            "left": Static(num_tasks, lambda task: [(task - 1) % num_tasks]),
            "right": Static(num_tasks, lambda task: [(task + 1) % num_tasks]),
        }


@dataclass(frozen=True, slots=True)
class Full:
    """Everyone to everyone: ``others`` are all other tasks, ascending."""

    def linkages(self, num_tasks: int) -> dict[str, Linkage]:
        """Return ``others``."""
        return {"others": Static(num_tasks, lambda task: _others(task, num_tasks))}


@dataclass(frozen=True, slots=True)
class Hypercube:
    """Corners of a cube of log2(num_tasks) dimensions: ``neighbors``, of which number k differs in bit k."""

    def linkages(self, num_tasks: int) -> dict[str, Linkage]:
        """Return ``neighbors``. Raises UsageError where `num_tasks` is no power of two."""
        dimensions = num_tasks.bit_length() - 1
        if num_tasks != 1 << dimensions:
            raise UsageError(
                f"num_tasks={num_tasks} is no power of two, as Hypercube needs: "
                f"use {1 << dimensions} or {2 << dimensions}"
            )
        return {"neighbors": Static(num_tasks, lambda task: [task ^ (1 << k) for k in range(dimensions)])}


class Grid:
    """A box of any number of dimensions, task ids in C order (the last axis is the fastest).

    Parameters
    ----------
    shape
        Number of tasks along each axis; their product is `num_tasks`.
    periodic
        Whether the ends of an axis are joined: one answer for all axes, or one for each.

    Notes
    -----
    Linkages, for each axis k: ``"-k"`` and ``"+k"``, the one task before and after along it, or none at the edge. In
    two dimensions they are also called ``north`` (-0), ``south`` (+0), ``west`` (-1) and ``east`` (+1). ``neighbors``
    is all of them, in the order -0, +0, -1, +1 ..., each task once and never the task itself.

    Along a periodic axis of two, both directions lead to the same task; along one of one, to the task itself. So a
    program that tags its channels by direction works at every shape.
    """

    def __init__(self, shape: Sequence[int], periodic: bool | Sequence[bool] = False) -> None:
        if not isinstance(shape, Sequence) or not shape:
            raise UsageError(f"shape={shape!r} is not a sequence of at least one number: write Grid((4, 2))")
        self.shape = tuple(_integer(f"shape[{axis}]", extent, at_least=1) for axis, extent in enumerate(shape))
        per_axis = tuple(periodic) if isinstance(periodic, Sequence) else (periodic,) * len(self.shape)
        if len(per_axis) != len(self.shape) or not all(isinstance(joined, bool | np.bool_) for joined in per_axis):
            raise UsageError(f"periodic={periodic!r} is neither one bool nor one for each axis of shape={self.shape}")
        self.periodic = tuple(map(bool, per_axis))

    def __repr__(self) -> str:
        return f"Grid({self.shape}, periodic={self.periodic})"

    def linkages(self, num_tasks: int) -> dict[str, Linkage]:
        """Return ``neighbors`` and the directions. Raises UsageError where `shape` does not multiply to `num_tasks`."""
        size = math.prod(self.shape)
        if size != num_tasks:
            raise UsageError(f"shape={self.shape} holds {size} tasks, but num_tasks={num_tasks}: make them equal")
        ways = list(product(range(len(self.shape)), (-1, +1)))

        def neighbors(task: TaskId) -> Iterable[TaskId]:
            found = [other for axis, step in ways for other in self._along(task, axis, step)]
            return [other for other in dict.fromkeys(found) if other != task]

        links: dict[str, Linkage] = {"neighbors": Static(num_tasks, neighbors)}
        for axis, step in ways:
            links[f"{'-' if step < 0 else '+'}{axis}"] = Static(num_tasks, self._direction(axis, step))
        if len(self.shape) == 2:
            links |= {"north": links["-0"], "south": links["+0"], "west": links["-1"], "east": links["+1"]}
        return links

    def _direction(self, axis: int, step: int) -> Callable[[TaskId], Iterable[TaskId]]:
        return lambda task: self._along(task, axis, step)

    def _along(self, task: TaskId, axis: int, step: int) -> list[TaskId]:
        extent, stride = self.shape[axis], math.prod(self.shape[axis + 1 :])
        here = task // stride % extent
        there = (here + step) % extent if self.periodic[axis] else here + step
        return [task + (there - here) * stride] if 0 <= there < extent else []


class Adjacency:
    """The edges of a matrix or a graph: ``successors`` and ``predecessors``, ascending.

    Parameters
    ----------
    edges
        A square `scipy.sparse` matrix or array, or a square NumPy array: an entry ``[i, j]`` that is not zero is an
        edge from i to j. Or a NetworkX graph on the nodes 0 to ``num_tasks - 1``; an undirected edge goes both ways.
        It is read once: what is done to it afterwards has no effect.
    """

    def __init__(self, edges: Any) -> None:
        # Known by what they can do, so that neither SciPy nor NetworkX need be there.
        if hasattr(edges, "is_directed") and hasattr(edges, "nodes"):
            self._size, pairs = _edges_of_graph(edges)
        elif hasattr(edges, "tocsr"):
            self._size, pairs = _edges_of_sparse(edges)
        elif isinstance(edges, np.ndarray):
            self._size, pairs = _square(edges.shape), np.argwhere(edges)
        else:
            raise UsageError(
                f"edges={type(edges).__name__} is neither a scipy.sparse matrix nor a NumPy array nor a NetworkX graph"
            )
        self._pairs = np.unique(pairs.astype(np.int64).reshape(-1, 2), axis=0)

    def __repr__(self) -> str:
        return f"Adjacency({self._size} tasks, {len(self._pairs)} edges)"

    def linkages(self, num_tasks: int) -> dict[str, Linkage]:
        """Return ``successors`` and ``predecessors``. Raises UsageError where `num_tasks` is not their size."""
        if self._size != num_tasks:
            raise UsageError(f"edges are among {self._size} tasks, but num_tasks={num_tasks}: make them equal")
        sources, destinations = self._pairs.T
        back = np.argsort(destinations, kind="stable")
        return {
            "successors": Static(num_tasks, _grouped(sources, destinations)),
            "predecessors": Static(num_tasks, _grouped(destinations[back], sources[back])),
        }


def _grouped(keys: NDArray[np.int64], values: NDArray[np.int64]) -> Callable[[TaskId], Iterable[TaskId]]:
    """Return the function from a key to its values. Keys are sorted."""

    def of(task: TaskId) -> Iterable[TaskId]:
        found: list[TaskId] = values[np.searchsorted(keys, task) : np.searchsorted(keys, task, "right")].tolist()
        return found

    return of


def _edges_of_sparse(matrix: Any) -> tuple[int, NDArray[Any]]:
    size = _square(matrix.shape)
    rows = matrix.tocsr(copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()  # stored zeros are no edges, as in the dense matrix
    entries = rows.tocoo()
    return size, np.column_stack([entries.row, entries.col])


def _edges_of_graph(graph: Any) -> tuple[int, NDArray[Any]]:
    size = len(graph.nodes)
    strangers = [node for node in graph.nodes if not isinstance(node, int | np.integer) or not 0 <= node < size]
    if strangers:
        raise UsageError(
            f"edges: node {strangers[0]!r} is none of 0 to {size - 1}: nodes are task ids; "
            "networkx.convert_node_labels_to_integers renames them"
        )
    pairs = np.array(list(graph.edges())).reshape(-1, 2)  # called, edges has no keys in a multigraph
    return size, pairs if graph.is_directed() else np.concatenate([pairs, pairs[:, ::-1]])


def _square(shape: tuple[int, ...]) -> int:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise UsageError(f"edges: a matrix of shape {shape} is not square: it needs a row and a column for each task")
    return shape[0]


def _others(task: TaskId, num_tasks: int) -> list[TaskId]:
    return [*range(task), *range(task + 1, num_tasks)]


def _integer(argument: str, value: Any, *, at_least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{argument}={value!r} is not an integer: use {at_least} or more") from None
    if isinstance(value, bool) or number < at_least:
        raise UsageError(f"{argument}={value!r} is out of bounds: use {at_least} or more")
    return number
