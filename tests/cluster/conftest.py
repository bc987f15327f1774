"""One cluster for all tests of this directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from batch import Batch
from lab import Lab, cluster


@pytest.fixture(scope="session")
def cluster_lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("a cluster on one machine needs root")
    with cluster(3) as lab:
        yield lab


@pytest.fixture
def lab(cluster_lab: Lab) -> Iterator[Lab]:
    """Return the cluster with all hosts up, also after a test that took some down."""
    yield cluster_lab
    cluster_lab.restore()


_STOOD_STILL: dict[str, float] = {}


@pytest.fixture
def submit(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Batch]]:
    """Submit jobs that are ended with the test."""
    batches: list[Batch] = []

    def start(command: Sequence[str], *sbatch: object, env: Mapping[str, str] | None = None) -> Batch:
        batches.append(Batch(lab, command, list(map(str, sbatch)), env))
        return batches[-1]

    yield start
    _STOOD_STILL[request.node.name] = max((batch.stood_still_s for batch in batches), default=0.0)
    for batch in batches:
        batch.cancel()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long it took to survive each of the failures."""
    if _STOOD_STILL:
        terminalreporter.section("longest time from one epoch to the next, in seconds")
    for name, longest_s in _STOOD_STILL.items():
        terminalreporter.line(f"{longest_s:8.1f}  {name}")
