"""Failures on purpose: what is to happen to whom, when, and where in the code; written down, read, and drawn by seed.

A fault hits once in the life of a job: not again when its epoch is run again, nor on another rank that takes a task
over. It names a rank, which stays the same, or a host, of which the first rank to come to the point is meant.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from taskgraph.errors import UsageError
from taskgraph.ids import Epoch, Rank
from taskgraph.trace import PHASES, POINTS

Action = Literal["kill", "kill-host", "kill-keeper", "stop", "exit", "raise"]

_GRAMMAR = (
    "write for example 'kill rank=3 epoch=5 phase=compute; kill-host host=1 epoch=7+', or 'seed=17 kills=3 hosts=yes'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One failure to inject.

    Attributes
    ----------
    action
        ``kill``: SIGKILL to the rank. ``kill-host``: to all ranks of its host, and the keeper. ``kill-keeper``: to
        the keeper only. ``stop``: SIGSTOP to the rank. ``exit``: ``os._exit(3)``. ``raise``: an exception in the place
        of user code.
    rank, host
        Who has to come to the point: a rank, or any rank of the host of this number, in the order of first ranks.
    epoch
        In which epoch. For phase ``recovery``: in the first recovery in that epoch or later.
    or_later
        Whether a later epoch will do as well.
    phase
        One of `taskgraph.trace.PHASES`, or one point of it, as ``send.middle``.
    nth
        Hit the nth time that the rank comes there in that epoch, or since it, counted from 1.

    Raises
    ------
    UsageError
    """

    action: Action
    rank: Rank | None = None
    host: int | None = None
    epoch: Epoch = 0
    or_later: bool = False
    phase: str = "compute"
    nth: int = 1

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise UsageError(f"fault {self.action!r} is none of {', '.join(get_args(Action))}: {_GRAMMAR}")
        if (self.rank is None) == (self.host is None):
            raise UsageError(f"a fault {self.action!r} needs a rank or a host, not both: {_GRAMMAR}")
        if self.host is not None and self.action not in ("kill-host", "kill-keeper"):
            raise UsageError(f"a fault {self.action!r} is one of a rank: give rank=, not host={self.host}")
        for name, value, least in (("rank", self.rank, 0), ("host", self.host, 0), ("epoch", self.epoch, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise UsageError(f"a fault has {name}={value!r}: an integer from {least} is needed")
        if isinstance(self.nth, bool) or not isinstance(self.nth, int) or self.nth < 1:
            raise UsageError(f"a fault has nth={self.nth!r}: an integer from 1 is needed")
        if self.phase not in PHASES and self.phase not in POINTS:
            raise UsageError(
                f"phase={self.phase!r} is none of {', '.join(PHASES)}, nor a point of one, as 'send.middle'"
            )
        if self.action == "raise" and not self.phase.startswith("compute"):
            raise UsageError(f"a fault raises in the place of user code, which is phase='compute', not {self.phase!r}")

    def meets(self, point: str, epoch: Epoch) -> bool:
        """Tell whether a rank that is in `epoch` and comes to `point` is where this fault is to hit."""
        if point != self.phase and point.partition(".")[0] != self.phase:
            return False
        return epoch == self.epoch or (epoch > self.epoch and (self.or_later or point.startswith("recovery")))

    def __str__(self) -> str:
        whom = f"rank={self.rank}" if self.rank is not None else f"host={self.host}"
        nth = f" nth={self.nth}" if self.nth != 1 else ""
        return f"{self.action} {whom} epoch={self.epoch}{'+' if self.or_later else ''} phase={self.phase}{nth}"


@dataclass(frozen=True, slots=True)
class Draw:
    """Faults by seed: read from text, they are drawn once ranks and hosts are known."""

    seed: int
    kills: int = 1
    hosts: bool = False
    epochs: int | None = None

    def __str__(self) -> str:
        epochs = f" epochs={self.epochs}" if self.epochs is not None else ""
        return f"seed={self.seed} kills={self.kills}{' hosts=yes' if self.hosts else ''}{epochs}"


def parse(text: str) -> list[Fault | Draw]:
    """Read a list of faults, separated by semicolons.

    Raises
    ------
    UsageError
        Something in it means nothing.
    """
    return [_parse_one(words) for part in text.split(";") if (words := part.split())]


def _parse_one(words: Sequence[str]) -> Fault | Draw:
    pairs = dict(_pair(word) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    if not plain and "seed" in pairs:
        known = {"seed", "kills", "hosts", "epochs"}
        _refuse_unknown(pairs, known)
        epochs = _integer(pairs, "epochs", 0) or None
        return Draw(_integer(pairs, "seed", 0), _integer(pairs, "kills", 1), pairs.get("hosts") == "yes", epochs)
    if len(plain) != 1 or len(pairs) + 1 != len(words):
        raise UsageError(f"{' '.join(words)!r} is no fault: {_GRAMMAR}")
    _refuse_unknown(pairs, {"rank", "host", "epoch", "phase", "nth"})
    or_later = pairs.get("epoch", "").endswith("+")
    pairs["epoch"] = pairs.get("epoch", "0").removesuffix("+")
    return Fault(
        action=plain[0],  # type: ignore[arg-type]  # checked by it
        rank=_integer(pairs, "rank", -1) if "rank" in pairs else None,
        host=_integer(pairs, "host", -1) if "host" in pairs else None,
        epoch=_integer(pairs, "epoch", 0),
        or_later=or_later,
        phase=pairs.get("phase", "compute"),
        nth=_integer(pairs, "nth", 1),
    )


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def _refuse_unknown(pairs: dict[str, str], known: set[str]) -> None:
    for name in pairs:
        if name not in known:
            raise UsageError(
                f"{name}={pairs[name]} is nothing that a fault has ({', '.join(sorted(known))}): {_GRAMMAR}"
            )


def _integer(pairs: dict[str, str], name: str, default: int) -> int:
    text = pairs.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"a fault has {name}={text!r}, which is no integer: {_GRAMMAR}") from None


def expand(wanted: Iterable[Fault | Draw], host_of: Sequence[str], epochs: int | None) -> list[Fault]:
    """Return the faults, those by seed drawn.

    Parameters
    ----------
    host_of
        The host of each rank.
    epochs
        Of the job; None: nobody knows.
    """
    faults: list[Fault] = []
    for one in wanted:
        if isinstance(one, Fault):
            faults.append(one)
        else:
            faults += draw(random.Random(one.seed), host_of, one.epochs or epochs or 10, one.kills, hosts=one.hosts)
    return faults


def draw(
    rng: random.Random, host_of: Sequence[str], epochs: int, kills: int, *, hosts: bool = False, backups: bool = True
) -> list[Fault]:
    """Draw kills of ranks, and of whole hosts if wanted, at any phase; one rank at least is left out.

    Several may fall into the same epoch, and those during recovery follow one that makes a recovery.

    Parameters
    ----------
    epochs
        The faults hit in one of so many epochs.
    backups
        Whether copies of snapshots travel, so that one may hit in the middle of that.
    """
    names = list(dict.fromkeys(host_of))
    spared = rng.randrange(len(host_of))
    left = [rank for rank in range(len(host_of)) if rank != spared]
    faults: list[Fault] = []
    epoch = 0
    for _ in range(kills):
        if not left:
            break
        rank = rng.choice(left)
        whole_host = hosts and host_of[rank] != host_of[spared] and rng.random() < 0.5
        left = [r for r in left if (host_of[r] != host_of[rank] if whole_host else r != rank)]
        if not faults or rng.random() < 0.6:  # else in the same epoch as the one before
            epoch = rng.randrange(epochs)
        phase, epoch_of_it = _phase(rng, faults, backups), epoch
        if phase.startswith("recovery"):
            epoch_of_it = min(fault.epoch for fault in faults if not fault.phase.startswith("recovery"))
        nth = rng.choice((1, 1, 1, 2, 3))
        whom = {"host": names.index(host_of[rank])} if whole_host and rng.random() < 0.5 else {"rank": rank}
        action: Action = "kill-host" if whole_host else "kill"
        faults.append(Fault(action=action, **whom, epoch=epoch_of_it, or_later=True, phase=phase, nth=nth))
    return faults


def _phase(rng: random.Random, before: Sequence[Fault], backups: bool) -> str:
    phases = [phase for phase in PHASES if (before or phase != "recovery") and (backups or phase != "replicate")]
    phase = rng.choice(phases)
    return f"{phase}.{rng.choice(PHASES[phase])}"
