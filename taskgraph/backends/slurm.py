"""The allocation that a batch script of Slurm runs in: its hosts, and which of them answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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


def is_over(environ: Mapping[str, str]) -> bool:
    """Whether the batch job that a process was started in has ended, or runs anew. False where that cannot be told."""
    job = environ.get("SLURM_JOB_ID", "")
    if not job.isdigit():
        return False
    try:
        said = _ask(["scontrol", "-o", "show", "job", job], environ)
    except UsageError as error:
        return "Invalid job id" in str(error)  # forgotten: it ended long ago
    fields = dict(field.partition("=")[::2] for field in said.split())
    restarts = environ.get("SLURM_RESTART_COUNT", "0")
    return fields.get("JobState") not in _LIVES or fields.get("Restarts", restarts) != restarts


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
