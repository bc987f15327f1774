"""The last host of a run removes its keys; one that is not waits for the others, and not for an etcd that is away."""

from __future__ import annotations

import pytest

from taskgraph.run.keeper import last_host
from taskgraph.run.keeper.last_host import remove_keys
from taskgraph.testing.memory import MemoryCoordinator, MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def joined(store: MemoryStore) -> MemoryCoordinator:
    coordinator = MemoryCoordinator(store)
    coordinator.claim("run")
    return coordinator


def test_the_last_one_removes_everything(store: MemoryStore) -> None:
    first = joined(store)
    first.write({"ranks/0": b"", "status": b""})
    assert remove_keys(first, 60.0)
    assert not store.names()


def test_a_host_that_lives_keeps_the_keys(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_host, "SLACK_S", 0.0)
    first = joined(store)
    first.write({"hosts/n2": b""}, lease=first.grant(60))
    assert not remove_keys(first, 0.0)
    assert "run" in store.names()


def test_an_etcd_that_does_not_answer_is_not_waited_for(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    first = joined(store)
    store.stop()
    assert not remove_keys(first, 1e9)
    assert "stay in etcd" in caplog.text
