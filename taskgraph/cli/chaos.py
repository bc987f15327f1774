"""``taskgraph chaos``: the proof that a driver survives."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from taskgraph.errors import TaskgraphError
from taskgraph.testing.chaos import Driver, Trial, check_command, draws
from taskgraph.testing.proofs import Proof, Verdict
from taskgraph.trace import POINTS


class _Range(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions
    """One number, or two with a dash between."""

    name = "range"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        low, _, high = str(value).partition("-")
        try:
            found = int(low), int(high or low)
        except ValueError:
            self.fail(f"{value!r} is no range: write 3, or 1-5", param, ctx)
        if not 1 <= found[0] <= found[1]:
            self.fail(f"{value!r} is no range of counts from 1", param, ctx)
        return found


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: taskgraph chaos --runs 50 -- mpirun --with-ft ulfm -n 4 python driver.py",
)
@click.option("--runs", default=20, show_default=True, type=click.IntRange(1), help="Runs with failures.")
@click.option("--seed", default=0, show_default=True, help="Seed of the first run; each later run adds 1.")
@click.option("--kills", default="1-5", show_default=True, type=_Range(), help="Failures in a run.")
@click.option("--hosts", is_flag=True, help="Kill whole hosts too; define them with TASKGRAPH_RANKS_PER_HOST.")
@click.option("--faults", multiple=True, help="Instead of seeds: what TASKGRAPH_FAULTS takes, one run for each.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds until a run counts as hung.")
@click.option("--keep", type=click.Path(path_type=Path), help="Directory for the output of runs that are not right.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def chaos(
    runs: int,
    seed: int,
    kills: tuple[int, int],
    hosts: bool,
    faults: Sequence[str],
    timeout: float,
    keep: Path | None,
    command: Sequence[str],
) -> None:
    """Run a driver without failures, then many times with, and compare the final states bit for bit.

    A run may end with the message that no copy of a task was left; such runs are counted apart. The status is 0 only
    if none was wrong, none hung, and none left anything behind.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the job is ended as well
    driver = Driver(command=command, timeout_s=timeout, keep=keep, environ=os.environ)
    try:
        check_command(command)
        reference = driver.reference()
        if hosts and len(set(reference.hosts)) == 1:
            raise click.UsageError("--hosts: there is one host only; set TASKGRAPH_RANKS_PER_HOST")
        trials = _try_all(driver, reference, _planned(reference, runs, seed, kills, hosts, faults))
    except TaskgraphError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(_summary(trials))


def _planned(
    reference: Proof, runs: int, seed: int, kills: tuple[int, int], hosts: bool, faults: Sequence[str]
) -> list[tuple[int | None, str]]:
    if faults:
        return [(None, text) for text in faults]
    return [(s, "; ".join(map(str, some))) for s, some in draws(reference, seed, runs, kills, hosts=hosts)]


def _try_all(driver: Driver, reference: Proof, planned: Sequence[tuple[int | None, str]]) -> list[Trial]:
    click.echo(
        f"without failures: {reference.tasks} tasks on {len(reference.hosts)} ranks of {len(set(reference.hosts))} "
        f"hosts, {reference.epochs} epochs"
    )
    click.echo(f"{'run':>4} {'seed':>6} {'hit':>5} {'alive':>5} {'gens':>4} {'ms lost':>8} {'s':>6}  verdict  faults")
    trials = []
    for number, (seed, faults) in enumerate(planned):
        trial = driver.trial(faults, reference, number, seed)
        trials.append(trial)
        click.echo(_row(trial))
    return trials


def _row(trial: Trial) -> str:
    proof = trial.proof
    figures = ("-", "-", "-", "-")
    if proof is not None:
        hit = f"{len(proof.hits)}/{len(trial.faults.split(';'))}"
        figures = (hit, str(len(proof.ends)), str(len(proof.generations)), f"{proof.ms_lost:.1f}")
    seed = "-" if trial.seed is None else str(trial.seed)
    line = (
        f"{trial.number:>4} {seed:>6} {figures[0]:>5} {figures[1]:>5} {figures[2]:>4} {figures[3]:>8} "
        f"{trial.seconds:>6.1f}  {trial.verdict.value:<7}  {trial.faults}"
    )
    return f"{line}\n     {trial.why.splitlines()[0]}" if trial.why else line


def _summary(trials: Sequence[Trial]) -> int:
    count = Counter(trial.verdict for trial in trials)
    points = Counter(point for trial in trials if trial.proof is not None for _, point in trial.proof.hits)
    click.echo("hits by point: " + ", ".join(f"{point} {points[point]}" for point in POINTS if points[point]))
    missed = [point for point in POINTS if not points[point]]
    if missed:
        click.echo("never hit: " + ", ".join(missed))
    ms = sorted(t for trial in trials if trial.proof is not None for t in trial.proof.generations.values())
    if ms:
        click.echo(f"{len(ms)} generations, ms lost in each: median {ms[len(ms) // 2]:.1f}, most {ms[-1]:.1f}")
    click.echo(
        f"{len(trials)} runs: {count[Verdict.RIGHT]} right, {count[Verdict.LOST]} ended as no copy of a task was left, "
        f"{count[Verdict.WRONG]} wrong, {count[Verdict.HUNG]} hung, {count[Verdict.DIRTY]} left something behind"
    )
    return int(count[Verdict.WRONG] + count[Verdict.HUNG] + count[Verdict.DIRTY] > 0)
