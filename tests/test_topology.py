"""Topologies: what their linkages promise, and what they refuse."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.errors import UsageError
from taskgraph.program.topology import Adjacency, Full, Grid, Hypercube, Ring, Star, Static, Topology, Tree

sizes = st.integers(1, 40)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@st.composite
def grids(draw):
    shape = draw(shapes)
    return Grid(shape, draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))), math.prod(shape)


@st.composite
def matrices(draw):
    size = draw(st.integers(1, 9))
    flat = draw(st.lists(st.sampled_from([0, 0, 1, -2]), min_size=size**2, max_size=size**2))
    return np.array(flat).reshape(size, size)


def edges(topology: Topology, linkage: str, num_tasks: int) -> set[tuple[int, int]]:
    """Every (task, neighbor) of a linkage, after a check that none is listed twice."""
    link = topology.linkages(num_tasks)[linkage]
    pairs = [(task, other) for task in range(num_tasks) for other in link(task, num_tasks, 0)]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def turned(pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    return {(other, task) for task, other in pairs}


@given(sizes, st.integers(1, 6))
def test_in_a_tree_parents_and_children_are_inverse(num_tasks, fanout):
    tree = Tree(fanout)
    assert edges(tree, "parents", num_tasks) == turned(edges(tree, "children", num_tasks))


@given(sizes, st.integers(1, 6))
def test_in_a_tree_everyone_but_the_root_has_one_parent_and_nobody_too_many_children(num_tasks, fanout):
    links = Tree(fanout).linkages(num_tasks)
    assert [len(links["parents"](task, num_tasks, 0)) for task in range(num_tasks)] == [0] + [1] * (num_tasks - 1)
    assert all(len(links["children"](task, num_tasks, 0)) <= fanout for task in range(num_tasks))


@given(sizes, st.data())
def test_in_a_star_center_and_leaves_are_inverse_and_the_center_has_all_leaves(num_tasks, data):
    center = data.draw(st.integers(0, num_tasks - 1))
    star = Star(center)
    assert edges(star, "leaves", num_tasks) == {(center, leaf) for leaf in range(num_tasks) if leaf != center}
    assert edges(star, "center", num_tasks) == turned(edges(star, "leaves", num_tasks))


@given(sizes)
def test_in_a_ring_left_and_right_are_inverse_and_going_right_visits_everyone(num_tasks):
    assert edges(Ring(), "left", num_tasks) == turned(edges(Ring(), "right", num_tasks))
    right, task, seen = Ring().linkages(num_tasks)["right"], 0, []
    for _ in range(num_tasks):
        (task,) = right(task, num_tasks, 0)
        seen.append(task)
    assert sorted(seen) == list(range(num_tasks))


@given(sizes)
def test_in_a_full_topology_everyone_sees_everyone_else(num_tasks):
    everyone = range(num_tasks)
    assert edges(Full(), "others", num_tasks) == {(a, b) for a in everyone for b in everyone if a != b}


@given(st.integers(0, 6))
def test_in_a_hypercube_neighbor_number_k_differs_in_bit_k(dimensions):
    num_tasks = 2**dimensions
    neighbors = Hypercube().linkages(num_tasks)["neighbors"]
    for task in range(num_tasks):
        assert [task ^ other for other in neighbors(task, num_tasks, 0)] == [2**k for k in range(dimensions)]


@given(grids())
def test_in_a_grid_neighbors_are_symmetric_and_never_oneself(grid):
    topology, num_tasks = grid
    pairs = edges(topology, "neighbors", num_tasks)
    assert pairs == turned(pairs)
    assert all(task != other for task, other in pairs)


@given(grids())
def test_in_a_grid_opposite_directions_are_inverse(grid):
    topology, num_tasks = grid
    for axis in range(len(topology.shape)):
        assert edges(topology, f"-{axis}", num_tasks) == turned(edges(topology, f"+{axis}", num_tasks))


@given(grids())
def test_in_a_grid_neighbors_are_what_the_directions_give(grid):
    topology, num_tasks = grid
    around = [f"{sign}{axis}" for axis in range(len(topology.shape)) for sign in "-+"]
    by_direction = set().union(*(edges(topology, way, num_tasks) for way in around))
    assert edges(topology, "neighbors", num_tasks) == {(a, b) for a, b in by_direction if a != b}


@given(shapes)
def test_in_an_open_grid_a_cell_lacks_one_neighbor_for_each_border_it_touches(shape):
    num_tasks = math.prod(shape)
    degree = Counter(task for task, _ in edges(Grid(shape), "neighbors", num_tasks))
    for task, cell in enumerate(np.ndindex(*shape)):
        borders = sum((i == 0) + (i == extent - 1) for i, extent in zip(cell, shape, strict=True))
        assert degree[task] == 2 * len(shape) - borders


@given(shapes, st.data())
def test_a_grid_moves_one_cell_in_c_order_and_wraps_where_it_is_periodic(shape, data):
    num_tasks = math.prod(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    forward = Grid(shape, periodic=True).linkages(num_tasks)[f"+{axis}"]
    ids = np.arange(num_tasks).reshape(shape)
    moved = [forward(task, num_tasks, 0)[0] for task in range(num_tasks)]
    assert moved == np.roll(ids, -1, axis).ravel().tolist()


def test_a_grid_of_two_dimensions_has_names_of_the_compass():
    links = Grid((3, 4)).linkages(12)
    here = 1 * 4 + 1
    compass = {way: links[way](here, 12, 0) for way in ("north", "south", "west", "east")}
    assert compass == {"north": (1,), "south": (9,), "west": (4,), "east": (6,)}
    assert "north" not in Grid((12,)).linkages(12)


def test_along_a_periodic_axis_of_one_a_task_is_its_own_neighbor_by_direction_only():
    links = Grid((1, 3), periodic=True).linkages(3)
    assert links["north"](2, 3, 0) == links["south"](2, 3, 0) == (2,)
    assert links["neighbors"](2, 3, 0) == (1, 0)


@given(matrices(), st.sampled_from(["csr", "csc", "coo", "lil", "dok", "dia", "bsr"]), st.booleans())
def test_a_sparse_matrix_gives_the_edges_of_the_dense_one(matrix, layout, as_array):
    sparse = (scipy.sparse.coo_array if as_array else scipy.sparse.coo_matrix)(matrix).asformat(layout)
    expected = {(i, j) for i, j in np.ndindex(*matrix.shape) if matrix[i, j]}
    for given_edges in (matrix, sparse):
        topology = Adjacency(given_edges)
        assert edges(topology, "successors", len(matrix)) == expected
        assert edges(topology, "predecessors", len(matrix)) == turned(expected)


@given(matrices(), st.sampled_from([nx.DiGraph, nx.Graph, nx.MultiDiGraph, nx.MultiGraph]))
def test_a_graph_gives_the_neighbors_that_networkx_gives(matrix, kind):
    graph = nx.from_numpy_array(matrix, create_using=kind)
    links = Adjacency(graph).linkages(len(matrix))
    before = graph.predecessors if graph.is_directed() else graph.neighbors
    for task in graph.nodes:
        assert links["successors"](task, len(matrix), 0) == tuple(sorted(graph.neighbors(task)))
        assert links["predecessors"](task, len(matrix), 0) == tuple(sorted(before(task)))


def test_stored_zeros_are_no_edges_and_duplicates_are_added_up():
    matrix = scipy.sparse.coo_array(([1, -1, 0, 5, 5], ([0, 0, 1, 2, 2], [1, 1, 2, 0, 0])), shape=(3, 3))
    assert edges(Adjacency(matrix), "successors", 3) == {(2, 0)}
    assert matrix.nnz == 5  # the user's matrix is left as it was


def test_what_is_done_to_the_matrix_afterwards_has_no_effect():
    matrix = np.eye(3)
    topology = Adjacency(matrix)
    matrix[:] = 1
    assert edges(topology, "successors", 3) == {(0, 0), (1, 1), (2, 2)}


def test_a_static_linkage_asks_once_for_each_task():
    asked = []

    def neighbors(task):
        asked.append(task)
        return [0]

    link = Static(3, neighbors)
    assert [link(task, 3, epoch) for epoch in range(5) for task in (1, 2)] == [(0,)] * 10
    assert asked == [1, 2]


def test_every_linkage_here_is_static():
    topologies = (Tree(2), Star(0), Ring(), Full(), Hypercube(), Grid((2, 2)), Adjacency(np.eye(4)))
    assert all(isinstance(link, Static) for topology in topologies for link in topology.linkages(4).values())


def test_a_static_linkage_refuses_another_job_and_strange_tasks():
    link = Ring().linkages(4)["left"]
    with pytest.raises(UsageError, match="num_tasks=5: this linkage was made for 4 tasks"):
        link(0, 5, 0)
    with pytest.raises(UsageError, match="task_id=4 is out of range: the tasks are 0 to 3"):
        link(4, 4, 0)


def test_neighbors_are_plain_integers_also_from_numpy_parameters():
    zero: Any = np.int64(0)
    two: Any = np.int64(2)
    for topology in (Tree(two), Star(zero), Grid([two, two]), Adjacency(np.ones((4, 4)))):
        for link in topology.linkages(4).values():
            assert all(type(other) is int for task in range(4) for other in link(task, 4, 0))


REFUSED = {
    "fanout=0 is out of bounds: use 1 or more": lambda: Tree(0),
    "fanout=True is out of bounds: use 1 or more": lambda: Tree(True),
    "fanout=2.5 is not an integer": lambda: Tree(2.5),  # type: ignore[arg-type]
    "center=-1 is out of bounds: use 0 or more": lambda: Star(-1),
    "center=6 is no task of num_tasks=6: use 0 to 5": lambda: Star(6).linkages(6),
    "num_tasks=6 is no power of two, as Hypercube needs: use 4 or 8": lambda: Hypercube().linkages(6),
    "shape=() is not a sequence": lambda: Grid(()),
    "shape=6 is not a sequence": lambda: Grid(6),  # type: ignore[arg-type]
    "shape[1]=0 is out of bounds: use 1 or more": lambda: Grid((2, 0)),
    "shape[0]='2' is not an integer": lambda: Grid("23"),  # type: ignore[arg-type]
    "shape=(2, 2) holds 4 tasks, but num_tasks=6": lambda: Grid((2, 2)).linkages(6),
    "periodic=(True,) is neither one bool nor one for each axis of shape=(2, 3)": lambda: Grid((2, 3), (True,)),
    "periodic=1 is neither one bool": lambda: Grid((2, 3), 1),  # type: ignore[arg-type]
    "periodic=[1, 0] is neither one bool": lambda: Grid((2, 3), [1, 0]),  # type: ignore[list-item]
    "edges: a matrix of shape (2, 3) is not square": lambda: Adjacency(np.ones((2, 3))),
    "edges: a matrix of shape (3, 2) is not square": lambda: Adjacency(scipy.sparse.csr_array(np.ones((3, 2)))),
    "edges are among 5 tasks, but num_tasks=6": lambda: Adjacency(np.eye(5)).linkages(6),
    "edges: node 'a' is none of 0 to 1": lambda: Adjacency(nx.Graph([("a", 0)])),
    "edges: node 2 is none of 0 to 1": lambda: Adjacency(nx.Graph([(0, 2)])),
    "edges=list is neither a scipy.sparse matrix nor": lambda: Adjacency([[0, 1], [1, 0]]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason(reason):
    with pytest.raises(UsageError) as refusal:
        REFUSED[reason]()
    assert reason in str(refusal.value)
