"""A schedule that goes wrong, made as small as it gets, and told."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from tests.simulator.schedules import Schedule
from tests.simulator.world import World


def played(schedule: Schedule, *, tell: bool = False) -> World:
    """Play a schedule; a defect of the code under test counts as an error like any other."""
    world = World(schedule, tell=tell)
    try:
        return world.play()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        world.error = f"{type(error).__name__}: {error} in {where.name}, line {where.lineno} of {where.filename}"
        return world


def goes_wrong(schedule: Schedule) -> bool:
    """Tell whether a schedule breaks an invariant."""
    return played(schedule).error is not None


def smallest(schedule: Schedule, wrong: Callable[[Schedule], bool] = goes_wrong) -> Schedule:
    """Leave out faults, one after the other, as long as it still goes wrong."""
    for fault in schedule.faults:
        fewer = schedule.without(fault)
        if wrong(fewer):
            return smallest(fewer, wrong)
    return schedule


def story(schedule: Schedule) -> str:
    """Tell what happens, line by line, and how it ends."""
    world = played(schedule, tell=True)
    end = world.error or f"all is well; {world.stats['events']} events"
    return "\n".join([schedule.describe(), *world.story, end])
