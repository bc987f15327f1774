"""Who runs what, and who holds the copies."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.plan.layout import assign

hosts = st.integers(1, 5).flatmap(lambda n: st.lists(st.sampled_from("ABCDE"[:n]), min_size=1, max_size=12))
placements = st.sampled_from(["buddy", "dedicated"])
tasks = st.integers(1, 30)
wanted = st.integers(0, 4)


@given(tasks, hosts, wanted, placements)
def test_every_task_has_its_replicas_on_different_ranks(num_tasks, hosts, backups, placement):
    layout = assign(num_tasks, hosts, backups, placement)
    assert len(layout.replicas) == num_tasks
    for ranks in layout.replicas:
        assert len(set(ranks)) == len(ranks) <= 1 + backups
        assert all(0 <= rank < len(hosts) for rank in ranks)


@given(tasks, hosts, wanted)
def test_every_task_gets_as_many_backups_as_there_are_other_ranks(num_tasks, hosts, backups):
    layout = assign(num_tasks, hosts, backups, "buddy")
    assert {len(ranks) for ranks in layout.replicas} == {1 + min(backups, len(hosts) - 1)}
    assert layout.fewest_backups() == min(backups, len(hosts) - 1)


@given(tasks, hosts, wanted)
def test_replicas_go_to_different_hosts_as_far_as_there_are_any(num_tasks, hosts, backups):
    layout = assign(num_tasks, hosts, backups, "buddy")
    for ranks in layout.replicas:
        assert len({hosts[rank] for rank in ranks}) == min(len(ranks), len(set(hosts)))


@given(tasks, hosts, wanted)
def test_tasks_are_spread_evenly_and_neighbours_lie_close(num_tasks, hosts, backups):
    layout = assign(num_tasks, hosts, backups, "buddy")
    primaries = [layout.primary(task) for task in range(num_tasks)]
    counts = Counter(primaries)
    assert max(counts.values()) - min(counts.get(rank, 0) for rank in range(len(hosts))) <= 1
    assert primaries == sorted(primaries)


@given(tasks, st.integers(2, 12), wanted)
def test_dedicated_backups_run_no_task(num_tasks, ranks, backups):
    layout = assign(num_tasks, ["here"] * ranks, backups, "dedicated")
    workers = max(1, ranks // (1 + backups))
    assert all(replicas[0] < workers for replicas in layout.replicas)
    if workers < ranks:
        assert all(rank >= workers for replicas in layout.replicas for rank in replicas[1:])


@given(tasks, hosts, wanted, placements)
def test_a_rank_knows_what_it_runs_and_what_it_backs_up(num_tasks, hosts, backups, placement):
    layout = assign(num_tasks, hosts, backups, placement)
    for rank in range(len(hosts)):
        assert layout.primaries_of(rank) == tuple(t for t in range(num_tasks) if layout.replicas[t][0] == rank)
        assert layout.backups_of(rank) == tuple(t for t in range(num_tasks) if rank in layout.replicas[t][1:])


def test_backups_are_spread_over_the_ranks():
    layout = assign(8, ["A", "A", "B", "B"], 1, "buddy")
    assert Counter(ranks[1] for ranks in layout.replicas) == {0: 2, 1: 2, 2: 2, 3: 2}


@pytest.mark.parametrize(
    ("num_tasks", "ranks", "primaries"),
    [(4, 2, (0, 0, 1, 1)), (3, 3, (0, 1, 2)), (2, 4, (0, 2)), (5, 2, (0, 0, 0, 1, 1)), (1, 8, (0,))],
)
def test_fewer_as_many_and_more_ranks_than_tasks(num_tasks, ranks, primaries):
    layout = assign(num_tasks, ["here"] * ranks, 0, "buddy")
    assert tuple(layout.primary(task) for task in range(num_tasks)) == primaries
