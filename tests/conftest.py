"""What several test files use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from taskgraph.testing import spmd


class Jobs:
    """Starts real MPI jobs for one test, and remembers them."""

    def __init__(self) -> None:
        self.started: list[spmd.Running] = []

    def start(
        self,
        program: Path | str,
        *,
        ranks: int,
        args: Sequence[object] = (),
        env: Mapping[str, str] | None = None,
        ulfm: bool = False,
        flags: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> spmd.Running:
        """Start a job, as `spmd.start` does."""
        job = spmd.start(program, ranks=ranks, args=args, env=env, ulfm=ulfm, flags=flags, cwd=cwd)
        self.started.append(job)
        return job

    def run(
        self,
        program: Path | str,
        *,
        ranks: int,
        args: Sequence[object] = (),
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        ulfm: bool = False,
        flags: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> spmd.Completed:
        """Run a job to its end, as `spmd.run` does."""
        return self.start(program, ranks=ranks, args=args, env=env, ulfm=ulfm, flags=flags, cwd=cwd).finish(timeout_s)


@pytest.fixture
def mpirun() -> Iterator[Jobs]:
    """Run MPI jobs that can leave nothing behind: what a test has not finished is ended, and fails it."""
    jobs = Jobs()
    left = []
    try:
        yield jobs
    finally:
        for job in jobs.started:
            left += job.leftovers()
            job.end()
    assert not left, "the test left behind: " + "; ".join(left)
