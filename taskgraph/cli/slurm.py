"""``taskgraph slurm script``: a batch script for a driver, to read, change and keep."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence

import click

from taskgraph.cli.driver import DriverCommand

_TIME = re.compile(r"\d+|(\d+-)?\d+(:\d+){0,2}")

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={hosts}
#SBATCH --ntasks-per-node={ranks}
#SBATCH --time={time}
#SBATCH --no-kill                   # a host that is lost does not end the job: it goes on on the others
#SBATCH --requeue                   # the loss of the first host, or of all, leads to another run of it
#SBATCH --open-mode=append          # a rerun appends to the output
#SBATCH --signal=B:USR1@{warn}         # seconds before the time limit: time for a checkpoint
{more}
# Threads of the numerical libraries in each rank.
export OMP_NUM_THREADS={threads}

# taskgraph run picks the flags of mpirun and relaunches the job on the hosts that are left. After the signal above, or
# before a preemption, it ends the job with a checkpoint and has it queued again. Until it is up, the signal is ignored.
trap '' USR1
exec {command}
"""


@click.group()
def slurm() -> None:
    """Run jobs under Slurm."""


def _check_time(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not _TIME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no time of Slurm's: write minutes, or 1-12:00:00")
    return value


@slurm.command(
    cls=DriverCommand,
    options_metavar="[OPTIONS] DRIVER.PY [ARGUMENTS]",
    epilog="Example: taskgraph slurm script --hosts 4 --checkpoint file:///scratch/me/c driver.py > job.sh",
)
@click.option("--hosts", default=2, show_default=True, type=click.IntRange(1), help="Number of hosts.")
@click.option("--ranks", default=1, show_default=True, type=click.IntRange(1), help="Ranks on each host.")
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Threads of numerical libraries in each rank.",
)
@click.option("--time", default="1:00:00", show_default=True, callback=_check_time, help="Time limit.")
@click.option(
    "--warn",
    default=120,
    show_default=True,
    type=click.IntRange(5),
    help="Seconds before the limit at which the job is told to write a checkpoint.",
)
@click.option("--partition", help="Where to queue.")
@click.option("--checkpoint", help="URL of the checkpoints, the same place for all hosts.")
@click.option("--backups", type=click.IntRange(0), help="Copies of each task's state on other hosts.")
@click.pass_context
def script(
    ctx: click.Context,
    hosts: int,
    ranks: int,
    threads: int,
    time: str,
    warn: int,
    partition: str | None,
    checkpoint: str | None,
    backups: int | None,
) -> None:
    """Write a batch script for a driver to standard output."""
    words: Sequence[str] = ctx.obj
    if not words:
        raise click.UsageError("no driver: name a Python file")
    options = {"CHECKPOINT": checkpoint, "BACKUPS": backups}
    settings = [f"export TASKGRAPH_{name}={shlex.quote(str(value))}" for name, value in options.items() if value]
    if checkpoint is None:
        settings.append(
            "# Without TASKGRAPH_CHECKPOINT, or checkpoint= in the driver, another run begins from the start."
        )
    place = [f"#SBATCH --partition={partition}"] if partition else []
    command = [sys.executable, "-m", "taskgraph", "run", "--requeue", *words]
    click.echo(
        _SCRIPT.format(
            name=re.sub(r"[^\w.-]", "-", words[0].rpartition("/")[2].removesuffix(".py")),
            hosts=hosts,
            ranks=ranks,
            time=time,
            warn=warn,
            threads=threads,
            more="\n".join([*place, "", *settings]) + "\n",
            command=shlex.join(command),
        ),
        nl=False,
    )
