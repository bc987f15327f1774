"""How ranks write a checkpoint together: with real slots and a real store, turn by turn, in one process."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.backends.commits import Commits
from taskgraph.backends.slot_file import Form
from taskgraph.backends.slot_holder import Holder
from taskgraph.backends.slots import Refusal, SlotDir
from taskgraph.config import Config
from taskgraph.errors import CheckpointDamaged, UsageError
from taskgraph.plan import records
from taskgraph.plan.decision import start
from taskgraph.plan.ending import PAUSED, Ending
from taskgraph.plan.holdings import Known
from taskgraph.plan.layout import Layout
from taskgraph.plan.manifest import Name
from taskgraph.plan.news import read
from taskgraph.program.framework import Framework
from taskgraph.program.task import Task
from taskgraph.run.checkpoints.candidates import candidates
from taskgraph.run.checkpoints.gate import Gate
from taskgraph.run.checkpoints.rounds import FIRST_S, PATIENCE_S, Rounds
from taskgraph.run.checkpoints.shelf import Beginning, Shelf
from taskgraph.run.checkpoints.writer import Checkpointing
from taskgraph.run.state.replicas import Replica
from taskgraph.run.state.slot_note import note
from taskgraph.run.state.task_files import TaskFiles
from taskgraph.testing.memory import MemoryCoordinator, MemoryStore
from tests.checkpoints import OTHER, RUN, make

RANKS = 2


class Idle(Task):
    def set_epoch(self, ctx, epoch):
        pass


class There:
    """A host with two ranks, each with one task whose state says which boundary it is of."""

    def __init__(self, path: Path, every: int | str = 5, **options: object) -> None:
        self.config = Config(
            name="job", num_tasks=RANKS, checkpoint=str(path / "store"), checkpoint_every=every, **options
        )
        self.store = CheckpointStore(str(path / "store"), "job")
        self.slots = SlotDir.create(path / "slots", RUN)
        self.slots.room += 1
        Commits.create(path / "commits", RANKS)
        self.commits = Commits.open(path / "commits")
        self.keys = MemoryStore()
        self.coordinator = MemoryCoordinator(self.keys)
        self.coordinator.claim(RUN)
        self.now = 1000.0
        self.boundary = self.generation = 0
        self.decision = start(dict.fromkeys(range(RANKS), "h"), Layout(((0,), (1,))))
        beginning = Beginning(decision=self.decision, run=RUN, origin=RUN, started=1.0, attempt=1)
        self.replicas = [self.replica(task) for task in range(RANKS)]
        self.holders = [Holder(self.slots, one.id, Form.of(one.state)) for one in self.replicas]
        self.files, self.all = [], []
        for rank in range(RANKS):
            files = TaskFiles(self.store, self.slots, RANKS)
            files.declare(self.replicas[rank])
            shelf = Shelf(self.store, RANKS, RUN, beginning)
            rounds = Rounds(self.config, RUN, shelf, self.coordinator, lambda: self.boundary, Gate(1), lambda: self.now)
            one = Checkpointing(self.config, RUN, rank, self.slots, self.commits, self.coordinator, files, rounds)
            one.adopted(self.decision, self.decision.history)
            self.files.append(files)
            self.all.append(one)
        self.rounds = self.all[0]._rounds
        self.gate = self.rounds.gate

    @staticmethod
    def replica(task: int) -> Replica:
        framework = Framework(task, RANKS, True, lambda status: None)
        array = framework.protect("at", np.zeros(2))
        log = [b""]
        framework.protect("log", save=lambda: log[0], load=lambda data: log.__setitem__(0, data))
        assert array is not None
        return Replica(task, Idle(), framework, framework.close_init())

    def run_to(self, boundary: int) -> None:
        """Run epochs: snapshots are taken, and are safe one boundary later."""
        for at in range(self.boundary + 1, boundary + 1):
            if not self.gate.may_begin(at - 1):
                return
            for replica, holder in zip(self.replicas, self.holders, strict=True):
                replica.arrays[0][:] = (at, replica.id)
                parts = [*replica.arrays, b"x" * at]
                taken = holder.write(at, self.generation, parts, note=note(at - 1, -1))
                assert not isinstance(taken, Refusal), taken
            self.boundary = at
            self.commits.line(0).heard(*Known(self.generation, at - 1, at - 1))
            self.slots.free_below(at - 1, self.generation)

    def hear(self) -> None:
        for key, value in self.coordinator.read("checkpoint/").items():
            said = read(key, value)
            for one in self.all:
                one.heard(said)

    def turns(self, count: int = 3) -> None:
        for _ in range(count):
            for one in reversed(self.all):
                one.turn()
            self.now += 0.05

    def complete(self) -> list[int]:
        return [name.boundary for name in sorted(self.store.names()) if self.store.manifest(name) is not None]

    def newest(self) -> str | None:
        value = self.coordinator.read().get(records.NEWEST)
        return None if value is None else value.decode()

    def recalled(self, boundary: int, rank: int) -> tuple[list[float], int]:
        """Return what a checkpoint has of a task, and how far ``committed`` had been called."""
        again = self.replica(rank)
        delivered = self.files[rank].recall(Name(boundary, RUN, self.generation), again)
        return [*again.arrays[0].tolist(), len(again.saved[0].save())], delivered


@pytest.fixture
def there(tmp_path):
    return There(tmp_path)


def test_a_boundary_is_written_once_it_is_safe_and_no_sooner(there):
    there.run_to(5)
    there.turns()
    assert there.store.names() == []
    there.run_to(6)
    there.turns()
    assert there.complete() == [5]
    assert there.newest() == f"5.{RUN}.0"
    assert [there.recalled(5, rank) for rank in range(RANKS)] == [([5, 0, 5], 4), ([5, 1, 5], 4)]


def test_its_snapshots_are_held_back_however_late_somebody_comes_to_write_them(there):
    there.run_to(100)
    there.turns()
    assert there.complete() == [5]
    assert there.recalled(5, 1) == ([5, 1, 5], 4)


def test_the_next_is_asked_for_ahead_and_two_complete_ones_are_kept(there):
    make(CheckpointStore(there.config.checkpoint, "other"), [{"w": np.zeros(1)}])
    there.store.prepare(Name(3, OTHER, 0))  # what a run left that was killed
    for boundary in range(1, 60):
        there.run_to(boundary)
        there.turns()
        there.hear()
    assert len(there.complete()) == 2
    assert all(boundary % 5 == 0 and boundary >= 45 for boundary in there.complete())
    assert len(there.store.names()) <= 3
    assert CheckpointStore(there.config.checkpoint, "other").names()


def test_what_a_checkpoint_costs_includes_what_the_root_itself_writes(there, monkeypatch):
    write = there.files[0].write

    def slowly(*arguments):
        there.now += 7.0
        return write(*arguments)

    monkeypatch.setattr(there.files[0], "write", slowly)
    there.run_to(6)
    there.turns()
    assert there.complete() == [5]
    assert 7.0 <= there.rounds._cost_s < 8.0


def test_who_hears_too_late_says_so_and_the_root_asks_further_ahead(tmp_path):
    there = There(tmp_path, every="auto")
    there.turns()
    there.now += FIRST_S
    there.turns()
    (asked,) = there.coordinator.read(records.WANTED).values()
    wanted = read(records.WANTED, asked)
    there.run_to(wanted.boundary + 10)  # before anybody has heard
    there.hear()
    there.turns()
    assert there.complete() == []
    there.hear()  # that it was too late
    there.turns()
    again = read(records.WANTED, there.coordinator.read(records.WANTED)[records.WANTED])
    assert again.boundary > wanted.boundary + 10
    there.hear()
    there.run_to(again.boundary + 5)
    there.turns()
    assert there.complete() == [again.boundary]


def test_a_checkpoint_of_a_generation_that_is_over_is_taken_back(there):
    there.coordinator.write({records.decision_key(1): b""})
    there.run_to(6)
    there.turns()
    assert there.newest() is None
    assert there.complete() == []


def test_trouble_is_told_and_goes_when_its_cause_does(there, tmp_path, caplog):
    (tmp_path / "store").write_text("in the way")
    there.run_to(6)
    there.turns()
    there.hear()
    there.turns()
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("NO CHECKPOINT of boundary 5: ")
    assert "the newest complete checkpoint is none; it is tried again in 5 s" in said
    (tmp_path / "store").unlink()
    there.now += 6
    for boundary in range(7, 30):
        there.run_to(boundary)
        there.turns()
        there.hear()
    assert there.complete()
    assert "checkpoints are written again" in caplog.text


def test_where_the_job_ends_there_is_no_checkpoint(there):
    there.run_to(5)
    there.commits.line(0).heard(*Known(0, 5, 5, 5, 0))
    there.turns()
    assert there.complete() == []


def test_etcd_may_be_away_meanwhile(there):
    there.keys.stop()
    there.run_to(6)
    there.turns()
    assert there.complete() == [5]
    there.keys.start()
    there.turns()
    assert there.newest() == f"5.{RUN}.0"


def test_a_snapshot_that_goes_while_it_is_read_is_not_put_in_place(there):
    there.run_to(5)
    name = Name(5, RUN, 0)
    there.store.prepare(name)
    held = there.slots.find(0, 5, 0)
    asked = []

    def freed_at_the_second_look() -> bool:
        asked.append(None)
        if len(asked) == 2:
            there.slots.free(held, 0)
        return True

    assert not there.files[0].write(name, 0, freed_at_the_second_look)
    assert not there.files[0].write(name, 0, lambda: True)
    assert there.store.sizes(name) == {}


def test_a_program_that_protects_something_else_is_told_what(there):
    there.run_to(6)
    there.turns()
    framework = Framework(0, RANKS, True, lambda status: None)
    framework.protect("at", np.zeros(2, np.float32))
    framework.protect("log", save=bytes, load=lambda data: None)
    other = Replica(0, Idle(), framework, framework.close_init())
    with pytest.raises(UsageError, match=r"protects at: <f4 \(2,\), but checkpoint 5\.\S+ holds at: <f8 \(2,\)"):
        there.files[0].recall(Name(5, RUN, 0), other)
    with pytest.raises(CheckpointDamaged, match="has no manifest any more"):
        there.files[0].recall(Name(6, RUN, 0), other)


def test_the_end_of_the_job_is_noted_where_there_are_checkpoints(there):
    there.rounds.end()
    assert there.store.finished() == set()
    there.run_to(6)
    there.turns()
    there.rounds.end()
    assert there.store.finished() == {RUN}
    assert candidates(there.store, there.config) == []


# ---- the end before the end ----


def asked_to_pause(there: There) -> list[Ending]:
    """Let a rank be told to end the job; return the endings that are asked for from now on."""
    endings: list[Ending] = []
    there.rounds.ask_end = endings.append
    there.all[1]._pause("it got SIGUSR1")
    there.all[1].turn()
    there.hear()
    return endings


def test_the_last_boundary_is_written_at_once_where_epochs_are_long_and_then_the_job_ends(there):
    there.run_to(3)
    there.gate.may_begin(3)
    endings = asked_to_pause(there)
    there.turns()
    assert there.complete() == []  # the epoch may be over soon
    there.now += PATIENCE_S
    for _ in range(3):
        there.turns()
        there.hear()
    assert there.complete() == [3]  # though it is not safe yet, which takes an epoch
    (ending,) = endings
    assert ending.status == PAUSED
    assert f"rank 1 was told to end the job: it got SIGUSR1; checkpoint 3.{RUN}.0 is complete" in ending.message


def test_where_epochs_are_short_the_job_stops_at_a_boundary_and_ends_with_that(there):
    for at in range(1, 40):  # 10 in each turn
        there.run_to(10 * at)
        there.turns(1)
        there.hear()
        if at == 10:
            endings = asked_to_pause(there)
            there.turns(1)  # the root hears of it
    assert there.boundary == 100
    (ending,) = endings
    assert f"checkpoint 100.{RUN}.0 is complete" in ending.message


def test_what_the_job_reached_while_its_last_checkpoint_was_written_is_written_as_well(there):
    there.run_to(3)
    there.gate.may_begin(3)
    endings = asked_to_pause(there)
    there.turns()
    there.now += PATIENCE_S
    there.turns(1)  # boundary 3 is asked for
    there.gate.open()  # the epoch that was under way
    there.run_to(4)
    there.gate.shut()
    assert not there.gate.may_begin(4)
    for _ in range(4):
        there.turns()
        there.hear()
    assert there.complete() == [3, 4]
    (ending,) = endings
    assert f"checkpoint 4.{RUN}.0 is complete" in ending.message


def test_a_job_that_ends_by_itself_is_not_stopped(there):
    there.run_to(5)
    there.gate.may_begin(5)
    there.commits.line(0).heard(*Known(0, 5, 5, 6, 0))
    endings = asked_to_pause(there)
    there.turns()
    assert there.gate.may_begin(6)
    there.now += PATIENCE_S
    there.turns()
    assert endings == []


def test_what_is_complete_already_is_not_written_again(there):
    there.run_to(5)
    there.commits.line(0).heard(*Known(0, 5, 5))
    there.turns()
    assert there.complete() == [5]
    endings = asked_to_pause(there)
    there.turns()
    there.gate.may_begin(5)
    there.turns()
    assert len(endings) == 1
    assert there.complete() == [5]


def test_without_a_checkpoint_the_job_goes_on_and_it_is_tried_again(there, tmp_path, caplog):
    (tmp_path / "store").write_text("in the way")
    there.run_to(3)
    endings = asked_to_pause(there)
    there.turns(1)
    there.run_to(4)
    assert there.boundary == 3
    for _ in range(3):
        there.turns()
        there.hear()
    assert endings == []
    assert "NO CHECKPOINT of boundary 3" in caplog.text
    (tmp_path / "store").unlink()
    there.run_to(4)
    assert there.boundary == 4
    there.now += 6
    there.turns(1)
    there.run_to(5)
    assert there.boundary == 4
    for _ in range(3):
        there.turns()
        there.hear()
    assert len(endings) == 1


# ---- at the start ----


def test_at_the_start_only_whole_checkpoints_of_this_job_are_tried(there, caplog):
    state = [{"w": np.zeros(1)}] * RANKS
    old = make(there.store, state, Name(10, OTHER, 0), origin=OTHER)
    there.store.prepare(Name(20, OTHER, 0))
    damaged = make(there.store, state, Name(15, OTHER, 0), origin=OTHER)
    manifest = Path(there.config.checkpoint, "job", str(damaged.name), "manifest")
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert candidates(there.store, there.config) == [old]
    said = [record.getMessage() for record in caplog.records]
    assert [text.split()[1] for text in said] == [f"20.{OTHER}.0", str(damaged.name)]
    assert "it was not completed" in said[0]


def test_another_number_of_tasks_is_refused_and_beginning_afresh_is_not(there):
    make(there.store, [{"w": np.zeros(1)}] * (RANKS + 1))
    with pytest.raises(UsageError, match=rf"num_tasks={RANKS}, but checkpoint .* of {RANKS + 1} tasks"):
        candidates(there.store, there.config)
    never = Config(name="job", num_tasks=RANKS, checkpoint=there.config.checkpoint, resume="never")
    assert candidates(there.store, never) == []


def test_what_was_begun_afresh_and_launched_again_goes_on_from_its_own(there):
    state = [{"w": np.zeros(1)}] * RANKS
    own = make(there.store, state, Name(10, "001" + RUN[3:], 0), started=5.0)
    make(there.store, state, Name(20, OTHER, 0), origin=OTHER)
    never = Config(name="job", num_tasks=RANKS, checkpoint=there.config.checkpoint, resume="never")
    assert candidates(there.store, never, "002" + RUN[3:]) == [own]


def test_a_fault_of_ours_while_the_job_is_to_pause_does_not_keep_it_from_going_on(there, monkeypatch, caplog):
    there.gate.shut()
    root = there.all[0]

    def broken():
        root._closing = True
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(root, "turn", broken)
    root._news.set()
    root._run_thread()
    assert "the job goes on" in caplog.text
    assert there.gate.may_begin(1)
