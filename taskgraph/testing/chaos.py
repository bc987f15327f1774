"""Run a driver without failures, then many times with, and compare the final state of every task bit for bit."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from taskgraph.errors import TaskgraphError, UsageError
from taskgraph.plan.faults import Fault, draw
from taskgraph.testing.leftovers import MARKER, SHARED, processes
from taskgraph.testing.proofs import Proof, Verdict, judge, read
from taskgraph.testing.spmd import LeftBehind, Running

SETTLE_S = 15.0
"""How long processes and files may take to go after the launcher has ended, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run with failures.

    Attributes
    ----------
    faults
        What was to happen.
    proof
        What the ranks wrote down; None where there is nothing.
    why
        Where it was not right: what was wrong.
    """

    number: int
    seed: int | None
    faults: str
    verdict: Verdict
    why: str
    proof: Proof | None
    seconds: float


class _KeeperLogs:
    """The logs of a job's keepers: held open, since each keeper removes its own in the end."""

    def __init__(self, job: Running) -> None:
        self._job = job
        self._open: dict[str, TextIO] = {}

    def look(self) -> None:
        """Open those that are new."""
        for name in self._job.shared() - self._open.keys():
            with suppress(OSError):
                self._open[name] = (SHARED / name / "keeper.log").open(encoding="utf-8", errors="replace")

    def read(self) -> str:
        """Return all that they say."""
        return "\n".join(f"--- keeper of {name}\n{file.read()}" for name, file in sorted(self._open.items()))

    def close(self) -> None:
        """Let go of them."""
        for file in self._open.values():
            file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """How a driver is run.

    Attributes
    ----------
    command
        The whole command line, launcher first.
    timeout_s
        Seconds until a run with failures is hung.
    keep
        Where the output and the proof of each run that is not right are kept; None: nowhere.
    """

    command: Sequence[str]
    timeout_s: float = 120.0
    keep: Path | None = None
    environ: Mapping[str, str]

    def reference(self) -> Proof:
        """Run it without failures.

        Raises
        ------
        TaskgraphError
            It fails without any, so nothing can be compared.
        """
        trial = self.trial("")
        if trial.proof is None and trial.verdict is not Verdict.HUNG and not _names_launcher(self.command):
            raise UsageError(
                f"{shlex.join(self.command)!r} starts no ranks, whose failures could be tried: put a launcher before "
                f"it, as in mpirun --with-ft ulfm -n 4 {shlex.join(self.command)}"
            )
        if trial.proof is None or trial.verdict is not Verdict.RIGHT:
            raise TaskgraphError(f"the driver fails without any failure: {trial.why}")
        return trial.proof

    def trial(self, faults: str, reference: Proof | None = None, number: int = 0, seed: int | None = None) -> Trial:
        """Run it once with these faults, and judge it by the reference."""
        home = Path(tempfile.mkdtemp(prefix="chaos-"))
        try:
            proofs, job = self._start(home, faults)
            with job, closing(_KeeperLogs(job)) as logs:
                verdict, why, seconds = self._watch(job, logs)
                proof = None
                with suppress(ValueError):
                    proof = read(proofs)
                if verdict is Verdict.RIGHT:
                    verdict, why = _judged(reference, proof)
                if verdict is Verdict.LOST and " ".join(why.split()) not in " ".join(job.stderr.split()):
                    verdict, why = Verdict.WRONG, f"no rank printed that {why}"
                output = f"{job.stdout}\n--- stderr\n{job.stderr}\n{logs.read()}"
                if verdict is not Verdict.RIGHT:
                    self._keep(proofs, f"{verdict.value.lower()}-{number}", faults, why, output)
            return Trial(
                number=number, seed=seed, faults=faults, verdict=verdict, why=why, proof=proof, seconds=seconds
            )
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def _start(self, home: Path, faults: str) -> tuple[Path, Running]:
        job_home = home / "job"
        proofs = home / "proofs"
        (job_home / "tmp").mkdir(parents=True)
        proofs.mkdir()
        variables = {
            **self.environ,
            "TMPDIR": str(job_home / "tmp"),
            "TASKGRAPH_FAULTS": faults,
            "TASKGRAPH_PROOF": str(proofs),
            "PYTHONFAULTHANDLER": "1",  # so that a hung run tells where it hangs
            MARKER: uuid.uuid4().hex,
        }
        try:
            return proofs, Running(list(self.command), variables, job_home, None)
        except OSError as error:
            raise UsageError(f"{self.command[0]!r} cannot be run: {error.strerror}") from error

    def _watch(self, job: Running, logs: _KeeperLogs) -> tuple[Verdict, str, float]:
        deadline = time.monotonic() + self.timeout_s
        while not job.wait(0.5):
            logs.look()
            if time.monotonic() > deadline:
                _let_them_say_where(job)
                return Verdict.HUNG, f"it did not end in {self.timeout_s:.0f} s", self.timeout_s
        try:
            done = job.finish(5.0, SETTLE_S)
        except LeftBehind as error:
            return Verdict.DIRTY, "; ".join(error.left), 0.0
        return Verdict.RIGHT, "", done.seconds

    def _keep(self, proofs: Path, name: str, faults: str, why: str, output: str) -> None:
        if self.keep is None:
            return
        self.keep.mkdir(parents=True, exist_ok=True)
        lines = [f"TASKGRAPH_FAULTS={shlex.quote(faults)} {shlex.join(self.command)}", why, "--- stdout", output]
        lines += [f"--- {path.name}\n{path.read_text(encoding='utf-8')}" for path in sorted(proofs.iterdir())]
        (self.keep / f"{name}-{uuid.uuid4().hex[:4]}.txt").write_text("\n".join(lines), encoding="utf-8")


def draws(
    reference: Proof, seed: int, runs: int, kills: tuple[int, int], *, hosts: bool
) -> Iterator[tuple[int, list[Fault]]]:
    """Return for each run its seed and its faults."""
    copies = reference.backups > 0 and len(set(reference.hosts)) > 1
    for number in range(runs):
        rng = random.Random(seed + number)
        count = rng.randint(*kills)
        yield seed + number, draw(rng, reference.hosts, reference.epochs, count, hosts=hosts, backups=copies)


_LAUNCHERS = frozenset({"mpirun", "mpiexec", "prterun", "srun", "taskgraph"})


def _names_launcher(command: Sequence[str]) -> bool:
    """Whether a command starts ranks, or may: a script can call a launcher."""
    plain = Path(command[0]).name.startswith("python") or command[0].endswith(".py")
    return not plain or any(Path(word).name.partition(".")[0] in _LAUNCHERS for word in command)


def check_command(command: Sequence[str]) -> None:
    """Raise UsageError where the launcher ends the job as soon as a rank dies."""
    if Path(command[0]).name in ("mpirun", "mpiexec", "prterun") and "--with-ft" not in command:
        raise UsageError(f"{command[0]} without --with-ft ulfm ends a job when a rank dies: add it")


def _judged(reference: Proof | None, proof: Proof | None) -> tuple[Verdict, str]:
    if proof is None:
        return Verdict.WRONG, "the job did not start, or it is no job of taskgraph"
    if reference is None:
        messages = [message for _, message in proof.ends.values() if message]
        return (Verdict.WRONG, messages[0]) if messages or not proof.ends else (Verdict.RIGHT, "")
    return judge(reference, proof)


def _let_them_say_where(job: Running) -> None:
    """Make the Python processes of a hung job write their stacks; it ends them."""
    for process in processes(job.marker):
        if "python" in process.command:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
                os.kill(process.pid, signal.SIGABRT)
    job.wait(3.0)
