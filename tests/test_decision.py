"""What the ranks of a generation agree on: where to resume, who takes over, and what travels through etcd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.plan.decide import decide
from taskgraph.plan.decision import Decision, start
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Tombstone
from taskgraph.plan.holdings import Held, Holdings, Known
from taskgraph.plan.layout import Layout, assign
from taskgraph.plan.lineage import is_valid, still_true
from taskgraph.plan.relocation import relocate
from taskgraph.plan.resume import resume

HOSTS = ["a", "a", "b", "b", "c", "c"]
FIRST = start(dict(enumerate(HOSTS)), assign(3, HOSTS, 1, "buddy"))


def offer(host: str, *slots: Held, safe: int = -1) -> Holdings:
    return Holdings(host, slots, Known(0, safe, safe) if safe >= 0 else Known())


def held(boundary: int, *tasks: int, generation: int = 0, end: int = -1) -> tuple[Held, ...]:
    return tuple(Held(task, boundary, generation, end) for task in tasks)


def everything(*offers: Holdings) -> dict[str, Holdings]:
    return {one.host: one for one in offers}


def test_the_newest_boundary_that_every_task_has_is_resumed_from() -> None:
    found = resume(
        FIRST, everything(offer("a", *held(4, 0), *held(5, 0)), offer("b", *held(4, 1, 2)), offer("c")), {0: 0}
    )
    assert found.boundary == 4
    assert found.holders == (frozenset("a"), frozenset("b"), frozenset("b"))
    assert "boundary 4 is held of all 3 tasks" in found.why


def test_a_snapshot_of_a_history_that_was_given_up_does_not_count() -> None:
    offers = everything(offer("a", *held(4, 0, 1, 2), *held(6, 0, 1, 2)), offer("b"), offer("c"))
    assert resume(FIRST, offers, {0: 0, 1: 5}).boundary == 4


def test_until_something_is_safe_the_job_can_start_again() -> None:
    found = resume(FIRST, everything(offer("b", *held(0, 1)), offer("c")), {0: 0})
    assert found.boundary == 0
    assert found.rebuild == (0, 2)


def test_a_task_whose_hosts_are_all_gone_may_take_back_what_was_committed_and_that_is_said() -> None:
    before = start(dict(enumerate(HOSTS)), Layout(((0, 2), (2, 4), (4, 0))))
    found = resume(before, everything(offer("c", *held(3, 0, 1, 2), safe=3)), {0: 0})
    assert found.boundary == 3
    assert found.lost == (0,)
    assert found.undoes
    assert "may be undone" in found.why


def test_a_task_that_protects_nothing_is_made_anew_but_not_beyond_what_is_known_to_be_safe() -> None:
    before = start(dict(enumerate(HOSTS)), Layout(((0, 2), (2, 4), (4, 0))), stateless=[0])
    offers = everything(offer("c", *held(3, 1, 2), *held(4, 1, 2), safe=3))
    found = resume(before, offers, {0: 0})
    assert (found.boundary, found.rebuild) == (3, (0,))


def test_a_shutdown_asked_for_before_the_failure_is_not_forgotten() -> None:
    found = resume(FIRST, everything(offer("a", *held(7, 0, 1)), offer("b", *held(7, 2, end=5))), {0: 0})
    assert found.end == 5


def test_a_job_without_a_cut_ends_and_names_the_task_its_ranks_and_the_way_out() -> None:
    before = start(dict(enumerate(HOSTS)), Layout(((0,), (2,), (4,))))
    ending = decide(
        before, {0, 1}, everything(offer("b", *held(3, 1), safe=3), offer("c", *held(3, 2), safe=3)), {0: 0},
        backups=0, placement="buddy", by="a test",
    )  # fmt: skip
    assert isinstance(ending, Ending)
    assert ending.task == 0
    for words in ("task 0", "rank 0", "backups=1", "checkpoint"):
        assert words in ending.message


def test_a_job_lives_on_to_its_last_rank() -> None:
    offers = everything(offer("c", *held(2, 0, 1, 2), safe=2))
    after = decide(FIRST, {0, 1, 2, 3, 4}, offers, {0: 0}, backups=1, placement="buddy", by="a test")
    assert isinstance(after, Decision)
    assert after.layout.replicas == ((5,), (5,), (5,))
    assert after.dead == (0, 1, 2, 3, 4)


ranks = st.integers(2, 12)
losses = st.sets(st.integers(0, 11))


@given(st.integers(1, 12), ranks, losses, st.integers(0, 3), st.sampled_from(["buddy", "dedicated"]))
def test_a_primary_that_lives_stays_and_copies_are_kept_apart(tasks, count, dead, backups, placement) -> None:
    hosts = [f"h{rank // 2}" for rank in range(count)]
    host_of = {rank: host for rank, host in enumerate(hosts) if rank not in dead}
    if not host_of:
        return
    before = assign(tasks, hosts, backups, placement)
    holders = [frozenset(host_of[rank] for rank in replicas if rank in host_of) for replicas in before.replicas]
    after = relocate(before, host_of, holders, backups, placement)
    for old, new in zip(before.replicas, after.replicas, strict=True):
        assert new[0] == old[0] or old[0] in dead
        assert len(set(new)) == len(new) == min(backups + 1, len(host_of))
        assert len({host_of[rank] for rank in new}) == min(len(new), len(set(host_of.values())))


boundaries = st.integers(0, 9)
histories = st.dictionaries(st.integers(0, 6), boundaries, max_size=5)


@given(boundaries, st.integers(0, 6), histories)
def test_what_is_left_of_a_safe_boundary_is_the_newest_that_is_still_true(boundary, known, history) -> None:
    left = still_true(boundary, known, history)
    assert is_valid(left, known, history)
    assert left == boundary or not is_valid(left + 1, known, history)


def test_a_decision_comes_out_of_etcd_as_it_went_in() -> None:
    after = decide(FIRST, {2, 3}, everything(offer("a", *held(4, 0, 1, 2)), offer("c")), {0: 0}, backups=1,
                   placement="buddy", by="a test")  # fmt: skip
    assert isinstance(after, Decision)
    assert Decision.decode(after.encode()) == after
    assert Decision.decode(FIRST.encode()) == FIRST


def test_holdings_and_tombstones_come_out_of_etcd_as_they_went_in() -> None:
    one = offer("a", *held(4, 0, 1, end=2), safe=3)
    assert Holdings.decode(one.encode()) == one
    tombstone = Tombstone((1, 2), Evidence.LEASE, "the keeper of host a", "host b", 12.5)
    assert Tombstone.decode(tombstone.encode()) == tombstone


@pytest.mark.parametrize("read", [Decision.decode, Holdings.decode, Tombstone.decode])
@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"[1, 2]", b"nonsense", b'{"hosts": []}'])
def test_what_is_no_record_is_refused(read, value) -> None:
    with pytest.raises(ValueError, match="not "):
        read(value)
