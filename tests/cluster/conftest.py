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


@pytest.fixture
def submit(lab: Lab) -> Iterator[Callable[..., Batch]]:
    """Submit jobs that are ended with the test."""
    batches: list[Batch] = []

    def start(command: Sequence[str], *sbatch: object, env: Mapping[str, str] | None = None) -> Batch:
        batches.append(Batch(lab, command, list(map(str, sbatch)), env))
        return batches[-1]

    yield start
    for batch in batches:
        batch.cancel()
