"""Copies that arrive at a backup which is behind: what they tell of commits is heard before they are stored."""

from __future__ import annotations

from types import SimpleNamespace

from taskgraph.plan import orders as do
from taskgraph.plan.holdings import Held, Known
from taskgraph.run.worker import Worker


def test_a_commit_that_comes_with_a_copy_frees_its_slot_first():
    done = []
    snapshots = SimpleNamespace(
        record=lambda known: done.append(("record", known.safe)),
        store=lambda slot, base, frames: done.append(("store", slot.boundary)) or True,
    )
    worker = SimpleNamespace(_snapshots=snapshots, _member=SimpleNamespace(stored=lambda source, slot: ()))
    worker._record = lambda order: Worker._record(worker, order)
    orders = (do.Record(Known(0, 3, 3)), do.Store(1, Held(0, 5, 0), None))
    assert Worker._store(worker, orders, 1, []) == ()
    assert done == [("record", 3), ("store", 5)]
