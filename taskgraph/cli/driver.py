"""Where the driver begins on a command line: all before it is ours, all from it on is the driver's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import click


class DriverCommand(click.Command):
    """A command whose context has, as its ``obj``, the driver and what follows it."""

    marks: ClassVar[Collection[str]] = ()
    """Words that a driver may begin at besides a Python file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the driver and its arguments off first."""
        at = driver_at(args, self.marks)
        ctx.obj = args[at:]
        return super().parse_args(ctx, args[:at])


def driver_at(words: Sequence[str], marks: Collection[str] = ()) -> int:
    """Return where the driver begins: at the first Python file, or one of `marks`."""
    return next((at for at, word in enumerate(words) if word in marks or word.endswith(".py")), len(words))
