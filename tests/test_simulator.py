"""Recovery, played in a world where everything that can go wrong does: see `tests.simulator`."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest

from tests.simulator.mutations import MUTATIONS, applied
from tests.simulator.schedules import Fault, Kind, Moment, large, schedule
from tests.simulator.story import goes_wrong, played, smallest, story
from tests.simulator.world import World

SECONDS = 10.0
"""How long schedules are played in the suite; `python -m tests.simulator` plays as many as one likes."""
AT_LEAST = 100


def play_for_a_while(start: int, step: int, seconds: float) -> list[tuple[int, str]]:
    """Play schedules until the time is over; return those that went wrong."""
    wrong = []
    end = time.monotonic() + seconds
    seed = start
    while time.monotonic() < end or seed < start + AT_LEAST * step:
        error = played(schedule(seed)).error
        if error is not None:
            wrong.append((seed, error))
        seed += step
    return wrong


def test_no_schedule_breaks_an_invariant() -> None:
    workers = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers) as pool:
        parts = [pool.submit(play_for_a_while, start, workers, SECONDS) for start in range(workers)]
        wrong = sorted(seed for part in parts for seed in part.result())
    assert not wrong, story(smallest(schedule(wrong[0][0])))


@pytest.mark.parametrize("name", MUTATIONS)
def test_without_a_rule_the_simulator_finds_that_something_goes_wrong(name: str) -> None:
    mutation = MUTATIONS[name]
    assert not goes_wrong(schedule(mutation.seed)), story(schedule(mutation.seed))
    with applied(mutation):
        assert goes_wrong(schedule(mutation.seed)), f"{mutation.rule}: nobody noticed that this does not hold"


def test_a_mutation_is_undone_afterwards() -> None:
    mutation = MUTATIONS["freeze"]
    with applied(mutation):
        pass
    assert not goes_wrong(schedule(mutation.seed))


def test_a_schedule_plays_the_same_each_time() -> None:
    assert story(schedule(14)) == story(schedule(14))


def test_a_failing_schedule_is_told_without_what_does_not_matter() -> None:
    needed = Fault(Kind.KILL_RANK, Moment.TIME, 3.0, 0)
    noise = Fault(Kind.COMPACT, Moment.TIME, 2.0)
    found = smallest(replace(schedule(0), faults=(noise, needed, noise)), lambda plan: needed in plan.faults)
    assert found.faults == (needed,)


def test_a_job_of_five_hundred_ranks_survives_the_loss_of_two_hosts_and_a_rank() -> None:
    world = World(large(512), most_events=10_000_000).play()
    assert world.error is None
    assert world.stats["decisions"] >= 2
