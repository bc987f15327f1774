"""``taskgraph slurm script``: a batch script for a driver, to read, change and keep."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence

import click

_TIME = re.compile(r"\d+|(\d+-)?\d+(:\d+){0,2}")

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={hosts}
#SBATCH --ntasks-per-node={ranks}
#SBATCH --time={time}
#SBATCH --no-kill                   # a host that is lost does not end the job: it goes on on the others
#SBATCH --requeue                   # the loss of the first host, or of all, leads to another run of it
#SBATCH --open-mode=append          # which adds to what this one has printed
#SBATCH --signal=B:USR1@{warn}         # seconds before the time limit: time for a checkpoint
{more}
# Ranks share no core with each other's numerical libraries.
export OMP_NUM_THREADS={threads}

# It picks the flags of mpirun, launches the job again on the hosts that are left, and after the signal above, or before
# a preemption, ends it with a checkpoint and lets Slurm queue it again. Before it can do that, the signal is ignored.
trap '' USR1
exec {command}
"""


@click.group()
def slurm() -> None:
    """Run jobs under Slurm."""


class _Script(click.Command):
    """Options come before the driver; all after it is the driver's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the driver and its arguments off first."""
        at = next((at for at, word in enumerate(args) if word.endswith(".py")), len(args))
        ctx.obj = args[at:]
        return super().parse_args(ctx, args[:at])


def _check_time(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not _TIME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no time of Slurm's: write minutes, or 1-12:00:00")
    return value


@slurm.command(
    cls=_Script,
    options_metavar="[OPTIONS] DRIVER.PY [ARGUMENTS]",
    epilog="Example: taskgraph slurm script --hosts 4 --checkpoint file:///scratch/me/c driver.py > job.sh",
)
@click.option("--hosts", default=2, show_default=True, type=click.IntRange(1))
@click.option("--ranks", default=1, show_default=True, type=click.IntRange(1), help="On each host.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Of numerical libraries.")
@click.option("--time", default="1:00:00", show_default=True, callback=_check_time, help="Limit.")
@click.option("--warn", default=120, show_default=True, type=click.IntRange(5), help="Seconds to write a checkpoint.")
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
