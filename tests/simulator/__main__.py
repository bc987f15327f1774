"""Play many schedules, or one; with all rules, or without some.

::

    python -m tests.simulator --seeds 100000          many, all rules in force
    python -m tests.simulator --seed 17 [--without lineage]      one, told as a story
    python -m tests.simulator --mutations             for each rule, the first seed that misses it
    python -m tests.simulator --large 10000           one job of so many ranks that loses a host
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack

from tests.simulator.mutations import MUTATIONS, applied
from tests.simulator.schedules import large, schedule
from tests.simulator.story import played, smallest, story
from tests.simulator.world import World


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10_000, help="how many schedules to play")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one, and tell its story")
    parser.add_argument("--without", choices=MUTATIONS, action="append", default=[], help="take a rule away")
    parser.add_argument("--mutations", action="store_true", help="find the first seed that misses each rule")
    parser.add_argument("--large", type=int, metavar="RANKS", help="play one large job")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    with ExitStack() as rules:
        for name in options.without:
            rules.enter_context(applied(MUTATIONS[name]))
        if options.seed is not None:
            print(story(smallest(schedule(options.seed))))
            return 0
        if options.large is not None:
            return _large(options.large)
        return _table(seeds, options.jobs) if options.mutations else _many(seeds, options.jobs)


def _play(seed: int) -> tuple[int, str | None, Counter[str]]:
    world = played(schedule(seed))
    return seed, world.error, world.stats


def _many(seeds: range, jobs: int) -> int:
    began, wrong, stats = time.monotonic(), [], Counter[str]()
    with multiprocessing.Pool(jobs) as pool:
        for seed, error, counted in pool.imap_unordered(_play, seeds, 100):
            stats += counted
            if error is not None:
                wrong.append(seed)
                print(f"seed {seed}: {error}", flush=True)
    counts = ", ".join(f"{name.lower().replace('_', ' ')} {count}" for name, count in sorted(stats.items()))
    print(f"{len(seeds)} schedules in {time.monotonic() - began:.0f} s, {len(wrong)} of them wrong\n{counts}")
    if wrong:
        print(f"\nthe first one, as small as it gets:\n{story(smallest(schedule(min(wrong))))}")
    return bool(wrong)


def _first_caught(search: tuple[str, range]) -> tuple[str, int | None, str]:
    name, seeds = search
    for seed in seeds:
        with applied(MUTATIONS[name]):
            error = played(schedule(seed)).error
        if error is not None and played(schedule(seed)).error is None:
            return name, seed, error
    return name, None, ""


def _table(seeds: range, jobs: int) -> int:
    found: dict[str, int | None] = {}
    searches: Iterable[tuple[str, range]] = [(name, seeds) for name in MUTATIONS]
    with multiprocessing.Pool(jobs) as pool:
        for name, seed, error in pool.imap_unordered(_first_caught, searches):
            found[name] = seed
            caught = "not caught" if seed is None else f"seed {seed}: {error[:90]}"
            print(f"{name:10} {MUTATIONS[name].rule}\n{'':10} {caught}", flush=True)
    return any(seed is None for seed in found.values())


def _large(ranks: int) -> int:
    began = time.monotonic()
    world = World(large(ranks), tell=True, most_events=10**9).play()
    routine = ("adopts", "leaves", "knows", "offers to")
    print("\n".join(line[:160] for line in world.story if not any(word in line for word in routine)))
    seconds = time.monotonic() - began
    print(f"{ranks} ranks, {world.stats['events']} events in {seconds:.0f} s: {world.error or 'all is well'}")
    return world.error is not None


if __name__ == "__main__":
    sys.exit(main())
