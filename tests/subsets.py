"""Kill every subset of at most two ranks of six, and of at most two hosts of three, at every named phase.

    python tests/subsets.py [--points] [--backups B] [--keep DIRECTORY]

Each subset dies at one moment of each phase (with --points: of each point of each phase): 21 and 6 subsets, 6 phases,
162 runs. Those of phase ``recovery`` die in the recovery from a rank that is not among them. Every run has to end with
the right result, or with the message that says that no copy of a task was left.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from taskgraph.plan.faults import Fault
from taskgraph.testing.chaos import Driver
from taskgraph.testing.mpirun import command
from taskgraph.testing.proofs import Verdict
from taskgraph.trace import PHASES, POINTS

RANKS, HOSTS, EPOCH = 6, 3, 3
HEAVY = Path(__file__).parent / "programs" / "heavy.py"


def subsets(phase: str) -> Iterator[list[Fault]]:
    """Return the faults of each run of a phase."""
    for size in (1, 2):
        for ranks in combinations(range(RANKS), size):
            some = [Fault(action="kill", rank=rank, epoch=EPOCH, or_later=True, phase=phase) for rank in ranks]
            yield [*_cause(phase, set(ranks)), *some]
        for hosts in combinations(range(HOSTS), size):
            some = [Fault(action="kill-host", host=host, epoch=EPOCH, or_later=True, phase=phase) for host in hosts]
            taken = {rank for host in hosts for rank in _ranks_of(host)}
            yield [*_cause(phase, taken), *some]


def _ranks_of(host: int) -> range:
    return range(host * RANKS // HOSTS, (host + 1) * RANKS // HOSTS)


def _cause(phase: str, taken: set[int]) -> list[Fault]:
    """Return what there is to recover from, for those that are to die of a recovery."""
    if not phase.startswith("recovery"):
        return []
    return [Fault(action="kill", rank=max(set(range(RANKS)) - taken), epoch=EPOCH, phase="compute")]


def main() -> int:
    """Run them all; status 0 if every one ended as it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", action="store_true", help="each point of each phase")
    parser.add_argument("--backups", default="1", help="copies besides the first (%(default)s)")
    parser.add_argument("--keep", type=Path, help="directory for the output of runs that are not right")
    parser.add_argument("phases", nargs="*", help="these phases or points only")
    given = parser.parse_args()
    driver = Driver(
        command=command(RANKS, [str(HEAVY), "--kib", "64", "--epochs", "8"], ulfm=True),
        timeout_s=60.0,
        keep=given.keep,
        environ={**os.environ, "TASKGRAPH_RANKS_PER_HOST": str(RANKS // HOSTS), "TASKGRAPH_BACKUPS": given.backups},
    )
    reference = driver.reference()
    count: Counter[tuple[str, Verdict]] = Counter()
    missed = 0
    phases = given.phases or (POINTS if given.points else PHASES)
    for phase in phases:
        for number, some in enumerate(subsets(phase)):
            trial = driver.trial("; ".join(map(str, some)), reference, number)
            count[phase, trial.verdict] += 1
            hit = 0 if trial.proof is None else len(trial.proof.hits)
            missed += hit == 0
            if trial.verdict not in (Verdict.RIGHT, Verdict.LOST):
                print(f"{trial.verdict.value}: {trial.faults}\n    {trial.why.splitlines()[0]}", flush=True)
        print(
            f"{phase:<20} " + ", ".join(f"{count[phase, verdict]} {verdict.value}" for verdict in Verdict), flush=True
        )
    bad = sum(number for (_, verdict), number in count.items() if verdict not in (Verdict.RIGHT, Verdict.LOST))
    print(f"{count.total()} runs, {bad} not as they may end; in {missed} no fault was met")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
