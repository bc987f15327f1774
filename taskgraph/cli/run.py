"""``taskgraph run``: start a job under MPI, and start it again when its launcher was lost."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from functools import cache

import click

from taskgraph._native.mpi import built_with
from taskgraph.backends import slurm
from taskgraph.backends.mpirun import Where, find_launcher, launch_line
from taskgraph.cli.driver import DriverCommand
from taskgraph.errors import TaskgraphError, UsageError
from taskgraph.plan.ending import PAUSED
from taskgraph.run.supervisor import Supervisor


class _Launch(DriverCommand):
    """Options of ours and of the launcher come before the driver, which may be a module or any program."""

    marks = ("--", "-m")


def program(words: Sequence[str]) -> list[str]:
    """Return program and arguments: a driver is run by this Python, what comes after ``--`` as it is."""
    if not words or words[0] == "--":
        return list(words[1:])
    return [sys.executable, *words]


@click.command(
    cls=_Launch,
    context_settings={"ignore_unknown_options": True},
    options_metavar="[-n N] [--relaunches K] [MPIRUN OPTIONS]",
    epilog="Example: taskgraph run -n 8 driver.py --size 1000. Put a program that is not a Python file after --.",
)
@click.option("-n", "-np", "--np", "ranks", type=click.IntRange(1), help="Ranks; by default one for each core.")
@click.option("--relaunches", default=100, show_default=True, type=click.IntRange(0), help="Relaunches at most.")
@click.option("--requeue", is_flag=True, help="When the job was paused, let Slurm queue it again.")
@click.option("--dry-run", is_flag=True, help="Print the launch line and do nothing.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="DRIVER.PY [ARGUMENTS]")
@click.pass_context
def run(
    ctx: click.Context, ranks: int | None, relaunches: int, requeue: bool, dry_run: bool, options: Sequence[str]
) -> None:
    """Run a driver under the MPI that taskgraph was compiled for.

    If the launcher ends before the job is over, because it was killed or because a rank died that it does not survive,
    it is started again, and the job goes on from what is left in shared memory. The status is the job's.

    SIGUSR1 makes the job write a checkpoint and end with status 75, so that another run goes on from there. SIGTERM
    does the same, and ends a job that writes no checkpoints.
    """
    words = program(ctx.obj)
    try:
        if not words:
            raise UsageError("no driver: name a Python file, or write the command after a double dash")
        given = cache(lambda: slurm.allocation(os.environ))
        launcher = cache(lambda: find_launcher(built_with(), os.environ))

        def command(attempt: int) -> list[str]:  # asks other programs, and so not before signals are taken
            environ = {**os.environ, "TASKGRAPH_SUPERVISED": ""}
            return launch_line(launcher(), where(given(), ranks, attempt), options, words, environ)

        if dry_run:
            click.echo(shlex.join(command(0)))
            return
        status = Supervisor(command, os.environ, relaunches, _say).run()
        if requeue and status == PAUSED and (allocation := given()) is not None:
            _say(f"Slurm queues job {allocation.job} again")
            slurm.requeue(allocation.job, os.environ)
    except TaskgraphError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)


def where(given: slurm.Allocation | None, ranks: int | None, attempt: int) -> Where:
    """Choose the hosts of an attempt: at first all that there are, later those that answer."""
    cores = os.cpu_count() or 1
    if given is None:
        return Where(ranks=ranks or cores, cores=cores)
    oversubscribed = given.cores > cores  # Slurm was told of more than there are
    wanted = ranks or given.ranks
    live = slurm.live_hosts(tuple(given.slots), os.environ) if attempt else tuple(given.slots)
    if len(live) == len(given.slots):
        slots = dict(given.slots)
        return Where(
            ranks=wanted,
            cores=cores,
            oversubscribed=oversubscribed,
            hosts=len(slots),
            in_slurm=True,
            again=attempt > 0,
        )
    slots = {host: given.slots[host] for host in live}
    _say(f"{len(live)} of {len(given.slots)} hosts answer: {', '.join(live) or 'none'}")
    return Where(
        ranks=min(wanted, max(sum(slots.values()), 1)),
        cores=cores,
        oversubscribed=oversubscribed,
        slots=slots,
        hosts=max(len(slots), 1),
        in_slurm=True,
        again=True,
    )


def _say(text: str) -> None:
    click.echo(f"taskgraph: {text}", err=True)
