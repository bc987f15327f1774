"""Every option, once: meaning, unit, default, bounds. Argument, then environment, then default.

`Config.from_env` is the only place that reads ``TASKGRAPH_*``. A variable that is no option is refused: it is a typing
mistake, and the job would silently run without what was asked for.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from taskgraph.errors import UsageError

Placement = Literal["buddy", "dedicated"]
Progress = Literal["auto", "bar", "lines", "off"]
Waiting = Literal["auto", "spin", "yield"]
Resuming = Literal["auto", "never", "require"]

PREFIX = "TASKGRAPH_"
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options of one job, checked.

    Raises
    ------
    UsageError
        An option is out of its bounds; the message names it, its value and the bounds.
    """

    name: str
    """The job's name and its key in etcd: letters, digits, ``_``, ``.``, ``-``; at most 64."""
    num_tasks: int
    """Number of tasks, at least 1."""
    epochs: int | None = None
    """Number of epochs, at least 1; None: until ``shutdown``."""
    backups: int = 0
    """Backup replicas of each task, at least 0."""
    placement: Placement = "buddy"
    """``"buddy"``: every rank works and backs up others; ``"dedicated"``: backup ranks wait."""
    protect_every: int = 1
    """Epochs between two snapshots of the protected state, at least 1."""
    checkpoint: str | None = None
    """Where to write checkpoints: any URL that fsspec knows, the same place for all ranks; None: nowhere."""
    checkpoint_every: int | Literal["auto"] = "auto"
    """Epochs between two checkpoints, a multiple of `protect_every`; ``"auto"``: the interval that loses least time, by
    the measured cost of one and `mtbf_s`."""
    resume: Resuming = "auto"
    """``"auto"``: go on from the newest complete checkpoint of an unfinished job of this name, where there is one;
    ``"require"``: there has to be one; ``"never"``: begin afresh."""
    mtbf_s: float = 86400.0
    """Expected seconds between two failures that only a checkpoint survives, 1 to 1e9."""
    seed: int = 0
    """Seed of every ``ctx.rng``, at least 0."""
    etcd: tuple[str, ...] = ()
    """Endpoints of an etcd, ``host:port``; none: the job brings its own. Members, not etcd's own grpc-proxy."""
    etcd_user: str | None = None
    """User name in that etcd."""
    etcd_password: str | None = None
    """The user's password. Give it in the environment or by `etcd_password_file`, never on a command line."""
    etcd_password_file: str | None = None
    """A file that holds the password; its trailing newline is dropped."""
    etcd_ca: str | None = None
    """File of the certificate authority (PEM); turns TLS on."""
    etcd_cert: str | None = None
    """File of the client certificate (PEM)."""
    etcd_key: str | None = None
    """File of the client certificate's key (PEM)."""
    etcd_timeout_s: float = 10.0
    """Seconds to wait for etcd at start, 0.1 to 3600."""
    etcd_lost_after_s: float = 60.0
    """Seconds that an etcd may stay away before the job is given up, 1 to 86400: the job's own etcd always, a user's
    while a failure waits to be recovered from. Otherwise a job on a user's etcd goes on, and ends only when etcd has
    been away and nothing has progressed for 600 s."""
    lease_s: float = 3.0
    """Seconds of silence before a host is dead, 2 to 3600."""
    abort_grace_s: float = 5.0
    """Seconds that user code gets to notice the end of the job before it is killed, 0 to 3600."""
    stall_timeout_s: float = 300.0
    """Seconds without progress after which a rank is reported, with its Python stack, 0 to 86400; 0: never."""
    ranks_per_host: int | None = None
    """Count each group of so many consecutive ranks as a host of its own, for tests; None: the machine is the host."""
    progress: Progress = "auto"
    """``"bar"``, ``"lines"``, ``"off"``; ``"auto"``: a bar on a terminal, else now and then a line."""
    faults: str = ""
    """Failures to inject, for tests, as `taskgraph.testing.faults` writes them."""
    proof: str | None = None
    """A directory where ranks note digests of the final state, failures and recoveries, for ``taskgraph chaos``."""
    supervised: str | None = None
    """Which attempt of which run this is; set by ``taskgraph run``, not by you."""
    waiting: Waiting = "auto"
    """What a waiting rank does: ``"spin"``, ``"yield"``; ``"auto"``: spin where each rank has a core."""

    def __post_init__(self) -> None:
        name: object = self.name  # what a caller without a type checker gave
        if not isinstance(name, str) or not JOB_NAME.fullmatch(name):
            raise UsageError(
                f"name={self.name!r} is not a plain name: use letters, digits, '_', '.', '-', "
                "a letter or digit first, 64 at most"
            )
        self._bound("num_tasks", 1, 2**31 - 1)
        if self.epochs is not None:
            self._bound("epochs", 1, 2**62)
        self._bound("backups", 0, 1024)
        self._bound("protect_every", 1, 2**31 - 1)
        self._bound("seed", 0, 2**128 - 1)
        if self.ranks_per_host is not None:
            self._bound("ranks_per_host", 1, 2**31 - 1)
        self._bound("etcd_timeout_s", 0.1, 3600)
        self._bound("lease_s", 2, 3600)
        self._bound("abort_grace_s", 0, 3600)
        self._bound("etcd_lost_after_s", 1, 86400)
        self._bound("stall_timeout_s", 0, 86400)
        self._bound("mtbf_s", 1, 1e9)
        self._check_checkpoints()
        choices = (("placement", Placement), ("progress", Progress), ("waiting", Waiting), ("resume", Resuming))
        for option, allowed in choices:
            if getattr(self, option) not in get_args(allowed):
                raise UsageError(f"{option}={getattr(self, option)!r} is none of {', '.join(get_args(allowed))}")
        self._check_etcd()

    def _bound(self, option: str, low: float, high: float) -> None:
        value = getattr(self, option)
        in_seconds = option.endswith("_s")
        if not in_seconds and not isinstance(value, bool | int):
            with suppress(TypeError):  # such as NumPy's integers
                value = operator.index(value)
                object.__setattr__(self, option, value)
        if isinstance(value, bool) or not isinstance(value, (int, float) if in_seconds else int):
            raise UsageError(f"{option}={value!r} is not {'a number' if in_seconds else 'an integer'}")
        if not low <= value <= high:
            raise UsageError(f"{option}={value!r} is out of bounds: {low} to {high}")

    def _check_checkpoints(self) -> None:
        if self.checkpoint is not None and (not isinstance(self.checkpoint, str) or not self.checkpoint):
            raise UsageError(f"checkpoint={self.checkpoint!r} is no URL: give a str that fsspec understands")
        if self.checkpoint_every != "auto":
            self._bound("checkpoint_every", 1, 2**31 - 1)
            if self.checkpoint_every % self.protect_every:
                raise UsageError(
                    f"checkpoint_every={self.checkpoint_every} is no multiple of protect_every={self.protect_every}: "
                    "a checkpoint is made of snapshots of the protected state"
                )
        if self.resume == "require" and self.checkpoint is None:
            raise UsageError("resume='require' needs a checkpoint to go on from: say where in checkpoint=")

    def _check_etcd(self) -> None:
        for endpoint in self.etcd:
            host, colon, port = endpoint.rpartition(":")
            if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise UsageError(f"etcd={endpoint!r} is not an endpoint: write host:port, several with commas")
        if (self.etcd_cert is None) != (self.etcd_key is None):
            raise UsageError("etcd_cert and etcd_key go together: give both or neither")
        if self.etcd_cert is not None and self.etcd_ca is None:
            raise UsageError("etcd_cert needs etcd_ca: name the authority that signed the server's certificate")
        if self.etcd_password is not None and self.etcd_password_file is not None:
            raise UsageError("give etcd_password or etcd_password_file, not both")
        if self.etcd_user is None and (self.etcd_password or self.etcd_password_file):
            raise UsageError("etcd_password is given without etcd_user")
        if self.etcd_user is not None and not (self.etcd_password or self.etcd_password_file):
            raise UsageError(f"etcd_user={self.etcd_user!r} has no password: set {PREFIX}ETCD_PASSWORD_FILE")
        if not self.etcd and (self.etcd_user or self.etcd_ca):
            raise UsageError("etcd_user and etcd_ca are for an etcd of yours: name its endpoints in etcd")
        for option in ("etcd_password_file", "etcd_ca", "etcd_cert", "etcd_key"):
            path = getattr(self, option)
            if path is not None and not os.access(path, os.R_OK):
                raise UsageError(f"{option}={path!r} cannot be read")

    def password(self) -> str | None:
        """Return the password of `etcd_user`, from wherever it was given."""
        if self.etcd_password_file is not None:
            return Path(self.etcd_password_file).read_text(encoding="utf-8").rstrip("\r\n")
        return self.etcd_password

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **arguments: object) -> Config:
        """Merge arguments over the variables ``TASKGRAPH_*`` over the defaults.

        Parameters
        ----------
        environ
            Usually ``os.environ``.
        **arguments
            Options given in the program. None counts as not given.
        """
        kinds = {field.name: str(field.type) for field in fields(cls)}
        values = {option: value for option, value in arguments.items() if value is not None}
        for variable, text in environ.items():
            if not variable.startswith(PREFIX):
                continue
            option = variable.removeprefix(PREFIX).lower()
            if option not in kinds or variable != variable.upper():
                raise UsageError(f"{variable} is not an option; known are {', '.join(_variables(kinds))}")
            if option not in values:
                values[option] = _parse(variable, text, kinds[option])
        if isinstance(values.get("etcd"), str):
            values["etcd"] = _endpoints(str(values["etcd"]))
        elif isinstance(values.get("etcd"), list):
            values["etcd"] = tuple(values["etcd"])  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]


def _variables(options: Mapping[str, str]) -> list[str]:
    return sorted(PREFIX + option.upper() for option in options)


def _endpoints(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse(variable: str, text: str, kind: str) -> object:
    try:
        if "auto" in kind and text == "auto":
            return text
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
    except ValueError:
        wanted = "an integer" if kind.startswith("int") else "a number"
        raise UsageError(f"{variable}={text!r} is not {wanted}") from None
    return text
