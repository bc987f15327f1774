"""The allocation that a batch script of Slurm runs in: its hosts, and which of them answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto

from taskgraph.backends.addresses import takes_connection
from taskgraph.errors import UsageError

_ASK_S = 30.0
_ANSWER_S = 3.0
_SLURMD_PORT = 6818
_LIVES = ("RUNNING", "SUSPENDED", "STOPPED", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT")
_COUNTS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


@dataclass(frozen=True, slots=True)
class Allocation:
    """What Slurm gave to this job.

    Attributes
    ----------
    job
        Its number.
    slots
        By host, in Slurm's order: how many ranks it is to have.
    cores
        Which Slurm counts on this host.
    """

    job: int
    slots: Mapping[str, int]
    cores: int

    @property
    def ranks(self) -> int:
        """Number of ranks on all hosts."""
        return sum(self.slots.values())


def allocation(environ: Mapping[str, str]) -> Allocation | None:
    """Return the allocation that this process is in. None: it is in none.

    Raises
    ------
    UsageError
        Slurm does not say which hosts it has.
    """
    nodes = environ.get("SLURM_JOB_NODELIST")
    if not nodes or not environ.get("SLURM_JOB_ID", "").isdigit():
        return None
    hosts = _ask(["scontrol", "show", "hostnames", nodes], environ).split()
    counts = expand_counts(environ.get("SLURM_TASKS_PER_NODE") or environ.get("SLURM_JOB_CPUS_PER_NODE") or "1")
    counts = (counts + counts[-1:] * len(hosts))[: len(hosts)]
    cores = environ.get("SLURM_CPUS_ON_NODE", "")
    slots = dict(zip(hosts, counts, strict=True))
    return Allocation(int(environ["SLURM_JOB_ID"]), slots, int(cores) if cores.isdigit() else max(counts))


def expand_counts(text: str) -> list[int]:
    """Read Slurm's way to write a number for each host, such as ``2(x3),1``.

    Raises
    ------
    UsageError
        It is not written so.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = _COUNTS.fullmatch(part)
        if match is None:
            raise UsageError(f"SLURM_TASKS_PER_NODE={text!r} cannot be read: expected something like '2(x3),1'")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def live_hosts(hosts: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return those hosts whose slurmd takes a connection within 3 s: on the others nothing can be started."""
    port = slurmd_port(environ)
    with ThreadPoolExecutor(min(len(hosts), 64)) as pool:
        answers = list(pool.map(lambda host: takes_connection(f"{host}:{port}", _ANSWER_S), hosts))
    return tuple(host for host, answered in zip(hosts, answers, strict=True) if answered)


def slurmd_port(environ: Mapping[str, str]) -> int:
    """Return the port of slurmd on every host."""
    try:
        match = re.search(r"^SlurmdPort\s*=\s*(\d+)", _ask(["scontrol", "show", "config"], environ), re.MULTILINE)
    except UsageError:
        match = None
    return int(match[1]) if match else _SLURMD_PORT


class BatchState(Enum):
    """What has become of the batch job that a process was started in."""

    RUNS = auto()
    """It runs, or that cannot be told."""
    DESERTED = auto()
    """Slurm lets it run, though it has taken the host of its script out of it: nothing will ever come of it."""
    OVER = auto()
    """It has ended, or runs anew."""


def in_batch_job(environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment was started in a batch job."""
    return environ.get("SLURM_JOB_ID", "").isdigit()


def batch_state(environ: Mapping[str, str]) -> BatchState:
    """Ask what has become of the batch job that a process with this environment was started in."""
    if not in_batch_job(environ):
        return BatchState.RUNS
    try:
        fields = _fields(environ)
        restarts = environ.get("SLURM_RESTART_COUNT", "0")
        if fields.get("JobState") not in _LIVES or fields.get("Restarts", restarts) != restarts:
            return BatchState.OVER
        hosts = _ask(["scontrol", "show", "hostnames", fields.get("NodeList", "")], environ).split()
    except UsageError as error:  # forgotten: it ended long ago
        return BatchState.OVER if "Invalid job id" in str(error) else BatchState.RUNS
    return BatchState.DESERTED if hosts and fields.get("BatchHost", hosts[0]) not in hosts else BatchState.RUNS


def requeue_deserted(environ: Mapping[str, str]) -> bool:
    """Queue a job that is deserted again, and return whether that was done.

    It is not where its user did not say ``--requeue``, nor where another was faster.

    Raises
    ------
    UsageError
        Slurm refuses, or cannot be asked.
    """
    if batch_state(environ) is not BatchState.DESERTED or _fields(environ).get("Requeue") != "1":
        return False
    requeue(int(environ["SLURM_JOB_ID"]), environ)
    return True


def _fields(environ: Mapping[str, str]) -> dict[str, str]:
    said = _ask(["scontrol", "-o", "show", "job", environ["SLURM_JOB_ID"]], environ)
    return dict(field.partition("=")[::2] for field in said.split())


def requeue(job: int, environ: Mapping[str, str]) -> None:
    """Let Slurm end this job and run it again.

    Raises
    ------
    UsageError
        It refuses.
    """
    _ask(["scontrol", "requeue", str(job)], environ)


def _ask(command: Sequence[str], environ: Mapping[str, str]) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, env=dict(environ))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{' '.join(command)} cannot be asked: {error}") from error
    if answer.returncode != 0:
        raise UsageError(f"{' '.join(command)} failed: {answer.stderr.strip()}")
    return answer.stdout
