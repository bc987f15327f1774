"""The snapshots of a host: written, listed, sent, restored and freed, and fenced by the floor."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskgraph import trace
from taskgraph._native import slots as native
from taskgraph._native.slots import SlotTable
from taskgraph.backends import slot_file, slot_pool
from taskgraph.backends.processes import Process
from taskgraph.backends.slot_delta import DeltaHead, Snapshot, send_held
from taskgraph.backends.slot_file import Form, Held, SlotLayout
from taskgraph.backends.slot_holder import Holder
from taskgraph.backends.slots import Refusal, SlotDir, owner_word
from taskgraph.errors import UsageError

BLOCK = 1024


class Host:
    """One host's directory, and the state of a task on it."""

    def __init__(self, path: Path, run: str = "run") -> None:
        self.slots = SlotDir.create(path, run)
        self.w = np.zeros(1000)
        self.text = b""
        self.form = Form.of({"w": self.w, "text": None})

    def holder(self, task: int = 0) -> Holder:
        return Holder(self.slots, task, self.form, block=BLOCK)

    @property
    def parts(self) -> list[np.ndarray | bytes]:
        return [self.w, self.text]

    def held(self) -> list[tuple[int, int, int]]:
        return sorted(held[:3] for held in self.slots.holdings())

    def files(self) -> list[str]:
        return sorted(path.name for path in self.slots.path.iterdir())


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory where slots would be: in shared memory, where there is some."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="taskgraph-test-", dir=base))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def host(shared: Path) -> Host:
    return Host(shared / "a")


@pytest.fixture
def other(shared: Path) -> Host:
    return Host(shared / "b")


def restored(host: Host, held: Held) -> tuple[np.ndarray, bytes]:
    w = np.full(1000, -1.0)
    strings = host.slots.read(held, [w])
    assert not isinstance(strings, Refusal), strings
    return w, strings[0]


# ---- a snapshot ----


def test_a_snapshot_is_listed_with_its_stamp_and_history(host):
    host.holder(7).write(3, 2, host.parts, note=1, history=((1, 0), (2, 3)))
    (held,) = host.slots.holdings()
    assert held[:5] == (7, 3, 2, 1, ((1, 0), (2, 3)))


def test_a_snapshot_restores_what_was_written_and_not_what_came_after(host):
    host.w[:], host.text = 5, b"five"
    holder = host.holder()
    held = holder.write(0, 0, host.parts).held
    host.w[:] = 6
    for read in (host.slots.read, holder.read):
        w = np.empty(1000)
        assert read(held, [w]) == [b"five"]
        assert (w == 5).all()


def test_another_process_object_sees_the_same(host):
    host.w[:] = 4
    held = host.holder().write(0, 0, host.parts).held
    again = SlotDir.open(host.slots.path)
    assert again.holdings() == [held] == [again.find(0, 0)]
    assert again.verify(held) is None


def test_the_newest_generation_of_a_boundary_is_found_first(host):
    holder = host.holder()
    for generation in (1, 2):
        holder.write(5, generation, host.parts)
    assert host.slots.find(0, 5).generation == 2
    assert host.slots.find(0, 5, 1).generation == 1
    assert host.slots.find(0, 5, 3) is None
    assert host.slots.find(1, 5) is None


def test_a_snapshot_says_what_changed_since_the_one_before(host):
    holder = host.holder()
    first = holder.write(0, 0, host.parts)
    host.w[300] = 1
    second = holder.write(1, 0, host.parts)
    assert (first.base, second.base) == (None, first.held)
    assert second.runs == [(0, 2, 1)]


def test_a_base_may_be_any_snapshot_of_the_host(host):
    holder = host.holder()
    first = holder.write(0, 0, host.parts).held
    host.w[:] = 1
    holder.write(1, 0, host.parts)
    host.w[:] = 0
    assert holder.write(1, 1, host.parts, base=first).runs == []


class Repeated:
    """A holder of arrays only, which has written boundary 0 and is ready to repeat that."""

    def __init__(self, path: Path) -> None:
        self.slots = SlotDir.create(path, "run")
        self.w, self.dates = np.zeros(1000), np.zeros((3, 5), "M8[s]", order="F")
        self.holder = Holder(self.slots, 0, Form.of({"w": self.w, "dates": self.dates}), block=BLOCK)
        self.first = self.write(0, history=((1, 0),))
        self.holder.prepare([self.w, self.dates])

    def write(self, boundary: int, **details: object) -> Snapshot:
        written = self.holder.write(boundary, 1, [self.w, self.dates], **details)
        assert isinstance(written, Snapshot)
        return written

    def content(self, boundary: int) -> tuple[np.ndarray, np.ndarray]:
        w, dates = np.empty_like(self.w), np.empty_like(self.dates)
        held = self.slots.find(0, boundary)
        assert held is not None
        assert self.slots.read(held, [w, dates]) == []
        return w, dates


@pytest.fixture
def repeated(shared: Path) -> Repeated:
    return Repeated(shared / "a")


def test_a_snapshot_that_is_repeated_is_what_was_written_but_for_its_stamp(repeated):
    for boundary in range(1, 20):
        repeated.w[boundary] = boundary
        repeated.dates[1, 2] += np.timedelta64(boundary, "s")
        assert repeated.holder.repeat(boundary, 1, 100 + boundary)
        w, dates = repeated.content(boundary)
        assert (w == repeated.w).all()
        assert (dates == repeated.dates).all()
        held = repeated.slots.find(0, boundary)
        assert held[:5] == (0, boundary, 1, 100 + boundary, ((1, 0),))
        assert repeated.holder.find(boundary, 1) == held
        repeated.slots.free_below(boundary, 1)


def test_of_a_snapshot_that_is_repeated_what_changed_can_be_sent_however_often_nobody_asked(repeated):
    """Those that the writer has copied itself are not known here: they were changes one of the other too."""
    for boundary in range(1, 8):
        repeated.w[100 * boundary] = 1
        assert repeated.holder.repeat(boundary, 1, 50)
        if boundary in (3, 4, 7):
            snapshot = repeated.holder.repeated(boundary, 1)
            assert snapshot.held == repeated.slots.find(0, boundary)
            assert snapshot.base == repeated.slots.find(0, boundary - 1)
            assert snapshot.runs == [(0, 100 * boundary * 8 // BLOCK, 1)]
            frames = repeated.holder.writer.change(b"before")
            assert bytes(frames[0]) == b"before" + snapshot.delta().head.encode()
            assert frames[1:] == snapshot.delta().frames
            assert repeated.holder.repeated(boundary, 1) == snapshot, "asked again"
        assert repeated.holder.repeated(boundary - 1, 1) is None
        repeated.slots.free_below(boundary, 1)


def test_what_is_written_after_it_says_what_changed_since(repeated):
    repeated.w[10] = 1
    assert repeated.holder.repeat(1, 1, -1)
    repeated.w[300] = 1
    second = repeated.write(2)
    assert second.base == repeated.slots.find(0, 1)
    assert second.runs == [(0, 2, 1)]
    assert not repeated.holder.repeat(3, 1, -1)  # until it is prepared again
    repeated.holder.prepare([repeated.w, repeated.dates])
    repeated.slots.free_below(2, 1)
    repeated.w[:] = 7
    assert repeated.holder.repeat(3, 1, -1)
    assert (repeated.content(3)[0] == 7).all()
    assert (repeated.content(2)[0] != 7).all()


def test_what_cannot_be_repeated_is_left_to_be_written(repeated):
    assert not repeated.holder.repeat(1, 2, -1), "another generation has another history"
    assert not repeated.holder.repeat(0, 1, -1), "it is held"
    assert repeated.holder.repeat(1, 1, -1)
    assert repeated.holder.wrote(1, 1)
    assert repeated.holder.repeat(2, 1, -1)
    assert not repeated.holder.repeat(3, 1, -1), "the host is full"
    repeated.slots.free_below(3, 1)
    assert not repeated.holder.repeat(3, 1, -1), "there is nothing left to compare with"
    assert repeated.write(3).base is None
    repeated.slots.raise_floor(2)
    repeated.slots.free_below(4, 2)
    assert not repeated.holder.repeat(4, 1, -1), "the generation is over"
    assert [held.boundary for held in repeated.slots.holdings()] == []


def test_an_array_that_was_resized_is_not_read_where_it_was(repeated):
    repeated.w.resize(10_000_000, refcheck=False)
    assert not repeated.holder.repeat(1, 1, -1)
    with pytest.raises(ValueError, match="protects arrays of"):
        repeated.write(1)


def test_byte_strings_are_never_repeated(host):
    holder = host.holder()
    holder.write(0, 0, host.parts)
    holder.prepare([host.w])
    assert not holder.repeat(1, 0, -1)


def test_a_hook_that_raises_in_the_middle_leaves_the_slot_as_it_was(repeated, monkeypatch):
    def raises(point: str, subject: object) -> None:
        raise ZeroDivisionError(point)

    monkeypatch.setattr(trace, "hook", raises)
    with pytest.raises(ZeroDivisionError, match="snapshot.middle"):
        repeated.holder.repeat(1, 1, -1)
    monkeypatch.undo()
    assert [held.boundary for held in repeated.slots.holdings()] == [0]
    repeated.w[5] = 5
    assert repeated.holder.repeat(1, 1, -1)
    assert repeated.content(1)[0][5] == 5


def test_a_whole_snapshot_is_never_written_again(host):
    holder = host.holder()
    holder.write(0, 0, host.parts)
    host.w[:] = 1
    assert holder.write(0, 0, host.parts) is Refusal.HELD
    assert (restored(host, host.slots.find(0, 0))[0] == 0).all()


def test_a_host_keeps_three_snapshots_of_a_task_until_a_commit_frees_one(host):
    holder = host.holder()
    for boundary in range(3):
        holder.write(boundary, 0, host.parts)
    assert holder.write(3, 0, host.parts) is Refusal.FULL
    assert host.slots.free_below(1, 0) is None
    assert holder.write(3, 0, host.parts).held.boundary == 3
    assert host.held() == [(0, 1, 0), (0, 2, 0), (0, 3, 0)]


def test_a_commit_frees_every_task_or_one(host):
    for task in (0, 1):
        host.holder(task).write(0, 0, host.parts)
    host.slots.free_below(1, 0, task=1)
    assert host.held() == [(0, 0, 0)]
    host.slots.free_below(1, 0)
    assert host.held() == []


def test_a_boundary_that_is_held_back_outlives_commits_and_keeps_nobody_from_writing(host):
    host.slots.room += 1
    host.slots.hold_back(2)
    holder = host.holder()
    for boundary in range(20):
        assert not isinstance(holder.write(boundary, 0, host.parts), Refusal)
        SlotDir.open(host.slots.path).free_below(boundary - 1, 0)
        assert (host.slots.find(0, 2) is None) == (boundary < 2)
    host.slots.hold_back(19)
    for boundary in range(20, 40):
        assert not isinstance(holder.write(boundary, 0, host.parts), Refusal)
        host.slots.free_below(boundary - 1, 0)
        assert host.slots.find(0, 2) is None
        assert host.slots.verify(host.slots.find(0, 19)) is None
    assert SlotDir.open(host.slots.path).held_back == 19
    host.slots.hold_back(-1)
    host.slots.free_below(40, 0)
    assert host.held() == []


def test_a_snapshot_that_was_freed_is_gone_for_who_still_names_it(host):
    holder = host.holder()
    held = holder.write(0, 0, host.parts).held
    assert host.slots.free(held, 0) is None
    for boundary in (1, 2, 3):
        holder.write(boundary, 0, host.parts)
    assert host.slots.read(held, [np.empty(1000)]) is Refusal.GONE
    assert host.slots.verify(held) is Refusal.GONE
    assert host.slots.free(held, 0) is None
    assert len(host.slots.holdings()) == 3


def test_strings_may_grow_and_shrink(host):
    holder = host.holder()
    for boundary, length in enumerate([0, 10, 5000, 200_000, 3, 4096, 0]):
        host.text = np.random.default_rng(boundary).bytes(length)
        held = holder.write(boundary, 0, host.parts, history=tuple((g, g) for g in range(1, 40 * boundary + 1))).held
        assert restored(host, held)[1] == host.text
        assert len(host.slots.find(0, boundary).history) == 40 * boundary
        host.slots.free_below(boundary, 0)
    assert len([name for name in host.files() if name.startswith("slot-")]) == 3


def test_a_snapshot_restores_only_into_what_has_its_sizes(host):
    held = host.holder().write(0, 0, host.parts).held
    assert host.slots.read(held, [np.empty(999)]) is Refusal.OTHER_FORM


def test_forms_differ_by_name_dtype_shape_order_and_kind():
    a = np.zeros((2, 3))
    states = [{"a": a}, {"b": a}, {"a": a.astype("i8")}, {"a": a.reshape(3, 2)}, {"a": np.asfortranarray(a)}, {"a": 0}]
    assert len({Form.of(state).digest for state in states}) == len(states)
    assert Form.of({"a": a}) == Form.of({"a": a + 1})


def test_what_is_not_of_the_form_is_not_written(host):
    holder = host.holder()
    with pytest.raises(ValueError, match="task 0 protects arrays of"):
        holder.write(0, 0, [np.zeros(999), b""])
    assert host.held() == []


def test_a_write_that_raises_leaves_the_slot_usable(host):
    holder = host.holder()
    for _ in range(5):
        with pytest.raises(ValueError, match="not contiguous"):
            holder.write(0, 0, [np.zeros(2000)[::2], b""])
    assert holder.write(0, 0, host.parts).held in host.slots.holdings()


# ---- sending ----


def carry(snapshot_or_delta, holder: Holder, generation: int = 0):
    header = snapshot_or_delta.head.encode()
    payload = b"".join(snapshot_or_delta.frames)
    head = DeltaHead.decode(header)
    assert head == snapshot_or_delta.head
    assert head.nbytes == len(payload)
    return holder.apply(head, [payload], generation)


def test_a_backup_follows_by_what_changed(host, other):
    primary, backup = host.holder(), other.holder()
    for boundary in range(6):
        host.w[boundary * 100] += 1
        host.text += b"x" * 700
        snapshot = primary.write(boundary, 0, host.parts, note=boundary - 1, history=((0, 0),))
        held = carry(snapshot.delta(), backup)
        assert held[:7] == snapshot.held[:7]
        assert other.slots.verify(held) is None
        w, text = restored(other, held)
        assert np.array_equal(w, host.w)
        assert text == host.text
        for at in (host, other):
            at.slots.free_below(boundary - 1, 0)


def test_little_is_sent_of_little_that_changed(host, other):
    primary = host.holder()
    primary.write(0, 0, host.parts)
    host.w[500] = 1
    assert primary.write(1, 0, host.parts).delta().head.nbytes == BLOCK


def test_changes_in_very_many_places_are_gathered_into_one_frame(shared):
    host, other = Host(shared / "a"), Host(shared / "b")
    for each in (host, other):
        each.w = np.zeros(128 * 300)
        each.form = Form.of({"w": each.w, "text": None})
    primary, backup = host.holder(), other.holder()
    carry(primary.write(0, 0, host.parts).delta(), backup)
    host.w[:: 2 * 128] = 1
    delta = primary.write(1, 0, host.parts).delta()
    assert len(delta.head.runs) == 150
    assert len(delta.frames) == 1
    assert other.slots.verify(carry(delta, backup)) is None


def test_without_the_base_the_whole_is_asked_for(host, other):
    primary, backup = host.holder(), other.holder()
    primary.write(0, 0, host.parts)
    host.w[:] = 1
    snapshot = primary.write(1, 0, host.parts)
    assert carry(snapshot.delta(), backup) is Refusal.NO_BASE
    assert carry(snapshot.whole(), backup)[:7] == snapshot.held[:7]


def test_a_base_of_the_same_stamp_but_another_content_is_none(host, other):
    primary, backup = host.holder(), other.holder()
    primary.write(0, 0, host.parts)
    backup.write(0, 0, [host.w + 1, b""])
    host.w[0] = 1
    assert carry(primary.write(1, 0, host.parts).delta(), backup) is Refusal.NO_BASE


def test_what_arrives_twice_is_acknowledged_and_dropped(host, other):
    primary, backup = host.holder(), other.holder()
    snapshot = primary.write(0, 0, host.parts)
    carry(snapshot.delta(), backup)
    assert carry(snapshot.delta(), backup) is Refusal.HELD


def test_what_arrives_damaged_is_not_completed_and_may_come_again(host, other):
    primary, backup = host.holder(), other.holder()
    delta = primary.write(0, 0, host.parts).delta()
    payload = bytearray(b"".join(delta.frames))
    payload[4321] ^= 16
    for wrong in (payload, payload[:-1], payload + b"x"):
        assert backup.apply(delta.head, [wrong], 0) is Refusal.DAMAGED
        assert other.held() == []
    assert carry(delta, backup)[:3] == (0, 0, 0)


def test_a_snapshot_of_another_form_is_refused(host, other):
    other.form = Form.of({"v": other.w, "text": None})
    assert carry(host.holder().write(0, 0, host.parts).delta(), other.holder()) is Refusal.OTHER_FORM


def test_a_new_backup_is_refilled_with_snapshots_of_older_generations_by_any_rank_of_the_host(host, other):
    holder = host.holder()
    for boundary, generation in ((4, 0), (5, 2)):
        host.w[:] = boundary
        holder.write(boundary, generation, host.parts)
    for at in (host, other):
        at.slots.raise_floor(3)
    backup, rank = other.holder(), SlotDir.open(host.slots.path)
    for held in sorted(rank.holdings()):
        assert carry(send_held(rank, held), backup, generation=3)[:3] == held[:3]
    assert other.held() == [(0, 4, 0), (0, 5, 2)]
    assert carry(send_held(rank, rank.holdings()[0]), backup, generation=2) is Refusal.FENCED


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_header_are_refused(data):
    with pytest.raises(ValueError, match="no header of a snapshot"):
        DeltaHead.decode(data)


def test_a_header_with_a_wrong_bit_is_none(host):
    holder = host.holder()
    holder.write(0, 0, host.parts)
    host.w[::200] = 1
    header = bytearray(holder.write(1, 0, host.parts, history=((1, 0),)).delta().head.encode())
    for bit in range(8 * len(header)):
        header[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="no header of a snapshot"):
            DeltaHead.decode(bytes(header))
        header[bit // 8] ^= 1 << bit % 8


# ---- the floor ----


def test_below_the_floor_nothing_is_begun_freed_or_completed(host):
    holder = host.holder()
    held = holder.write(0, 4, host.parts).held
    host.slots.raise_floor(5)
    assert host.slots.floor == 5
    assert not host.slots.admits(4)
    assert holder.write(1, 4, host.parts) is Refusal.FENCED
    assert host.slots.free(held, 4) is Refusal.FENCED
    assert host.slots.free_below(9, 4) is Refusal.FENCED
    assert host.held() == [(0, 0, 4)]


def test_at_the_floor_everything_goes_on(host):
    holder = host.holder()
    held = holder.write(0, 4, host.parts).held
    host.slots.raise_floor(5)
    assert holder.write(1, 5, host.parts).held.generation == 5
    assert host.slots.free(held, 5) is None


def test_the_floor_never_falls(host):
    host.slots.raise_floor(5)
    host.slots.raise_floor(3)
    assert host.slots.floor == 5


def test_a_generation_that_does_not_fit_is_an_error(host):
    with pytest.raises(ValueError, match="above 4294967295"):
        host.slots.raise_floor(2**32)
    with pytest.raises(ValueError, match="above 4294967295"):
        host.holder().write(0, 2**32, host.parts)


def begun(table: SlotTable, generation: int) -> tuple[int, int]:
    index = table.add(0, 1)
    table.settle(index)
    return index, table.begin(index, generation)


def test_what_an_older_generation_is_writing_is_refused_for_good(host):
    table = host.slots.table
    index, cycle = begun(table, 4)
    host.slots.raise_floor(5)
    assert table.complete(index, cycle, 4, 0, 4) == native.FENCED
    assert table.look(index)[0] == native.REFUSED
    assert table.begin(index, 4) == native.FENCED
    assert table.begin(index, 5) > cycle


def test_what_the_generation_of_the_floor_is_writing_is_left_alone(host):
    table = host.slots.table
    index, cycle = begun(table, 5)
    host.slots.raise_floor(5)
    assert table.complete(index, cycle, 5, 0, 5) == 0


def test_a_raise_that_was_cut_off_is_finished_by_the_next(host):
    table = host.slots.table
    index, cycle = begun(table, 4)
    with open(host.slots.path / "table", "r+b") as file:  # stored the floor, and was killed
        os.pwrite(file.fileno(), struct.pack("<Q", 5), 64)
    assert host.slots.floor == 5
    host.slots.raise_floor(5)
    assert table.complete(index, cycle, 4, 0, 4) == native.FENCED


def test_the_fence_lies_in_every_slot_so_no_moment_is_left_between_the_floor_and_a_change(host):
    table = host.slots.table
    free, given_up = begun(table, 4)
    table.cancel(free, given_up)
    writing, cycle = begun(table, 4)
    whole, its = begun(table, 4)
    table.complete(whole, its, 4, 0, 4)
    host.slots.raise_floor(5)
    with open(host.slots.path / "table", "r+b") as file:  # as if the floor had been read just before it was raised
        os.pwrite(file.fileno(), struct.pack("<Q", 4), 64)
    assert table.begin(free, 4) == native.FENCED
    assert table.complete(writing, cycle, 4, 0, 4) == native.FENCED
    assert table.free(whole, its, 4) == native.FENCED


def test_a_slot_that_is_added_finds_the_floor(host):
    host.slots.raise_floor(5)
    table = host.slots.table
    index = table.add(0, 1)
    table.settle(index)
    assert table.look(index)[1] == 5
    assert table.begin(index, 4) == native.FENCED


# ---- whose memory ----


def test_slots_are_allocated_when_the_holder_is_made(host):
    host.holder()
    assert host.files() == ["slot-0", "slot-1", "slot-2", "table"]
    assert all(path.stat().st_blocks * 512 >= path.stat().st_size for path in host.slots.path.iterdir())
    assert {path.stat().st_mode & 0o777 for path in host.slots.path.iterdir()} == {0o600}
    assert host.slots.path.stat().st_mode & 0o777 == 0o700


def test_after_a_failure_slots_are_allocated_when_they_are_written_to(host):
    """Zeroing them takes longer than all else of a recovery, and nobody goes on before everybody can."""
    holder = Holder(host.slots, 0, host.form, block=BLOCK, at_once=False)
    assert host.files() == ["table"]
    for boundary in range(3):
        assert not isinstance(holder.write(boundary, 0, host.parts), Refusal)
    assert host.files() == ["slot-0", "slot-1", "slot-2", "table"]
    assert host.held() == [(0, boundary, 0) for boundary in range(3)]


def test_where_there_is_no_room_for_them_all_that_is_an_error_before_they_are_needed(host, monkeypatch):
    monkeypatch.setattr(slot_pool, "left_in", lambda directory: 3 * host_size(host) - 1)
    with pytest.raises(UsageError, match=rf"takes {host_size(host)} bytes, .* \(3 of them are needed\)"):
        Holder(host.slots, 0, host.form, block=BLOCK, at_once=False)


def test_a_full_host_is_an_error_that_names_both_sizes_and_leaves_nothing(host, monkeypatch):
    allocate, calls = os.posix_fallocate, []

    def fill_up(descriptor: int, start: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(descriptor, start, size)

    monkeypatch.setattr(os, "posix_fallocate", fill_up)
    with pytest.raises(UsageError, match=rf"takes {host_size(host)} bytes, and .* has \d+ left .*--shm-size="):
        host.holder()
    assert host.files() == ["table"]
    monkeypatch.undo()
    host.holder()


def host_size(host: Host) -> int:
    return SlotLayout.of(BLOCK, (8000, 4096), slot_pool._HISTORY_ROOM).size


def test_more_state_than_there_is_memory_is_that_error(host):
    with pytest.raises(UsageError, match="no room for a snapshot"):
        Holder(host.slots, 0, Form((1 << 46,), 0, 0))
    assert host.files() == ["table"]


def test_a_string_that_outgrows_the_memory_is_that_error(host, monkeypatch):
    holder = host.holder()

    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError, match="no room for a snapshot"):
        holder.write(0, 0, [host.w, bytes(100_000)])


def test_a_table_that_is_full_is_an_error(shared):
    slots = SlotDir.create(shared / "small", "run", capacity=4)
    Holder(slots, 0, Form((8,), 0, 0))
    with pytest.raises(UsageError, match="task 1 gets no slot: this host has 4 in use"):
        Holder(slots, 1, Form((8,), 0, 0))
    assert len(list(slots.path.iterdir())) == 4


def as_dead(slots: SlotDir) -> None:
    """Let what this object takes belong to a process that is gone."""
    slots.owner = owner_word(Process(2**22 - 1, 1))


def test_slots_of_a_process_that_is_gone_are_taken_over_when_they_hold_nothing(host):
    as_dead(host.slots)
    dead = host.holder()
    for boundary in (0, 1):
        dead.write(boundary, 0, host.parts)
    slots = SlotDir.open(host.slots.path)
    holder = Holder(slots, 0, host.form, block=BLOCK)
    assert host.files() == ["slot-0", "slot-1", "slot-2", "table"]
    assert holder.write(2, 0, host.parts).held.boundary == 2
    assert holder.write(3, 0, host.parts) is Refusal.FULL
    slots.free_below(2, 0)
    for boundary in (3, 4):
        assert holder.write(boundary, 0, host.parts).held.boundary == boundary
    assert host.files() == ["slot-0", "slot-1", "slot-2", "table"]


def test_slots_of_a_process_that_lives_are_left_alone(host):
    host.holder()
    slots = SlotDir.open(host.slots.path)
    Holder(slots, 0, host.form, block=BLOCK)
    assert len(host.files()) == 7


def test_the_snapshot_of_a_dead_process_is_a_base_like_any(host, other):
    as_dead(host.slots)
    first = host.holder().write(0, 0, host.parts)
    backup = other.holder()
    carry(first.delta(), backup)
    holder = Holder(SlotDir.open(host.slots.path), 0, host.form, block=BLOCK)
    host.w[999] = 1
    snapshot = holder.write(1, 1, host.parts, base=first.held)
    assert snapshot.runs == [(0, 7, 1)]
    assert other.slots.verify(carry(snapshot.delta(), backup, 1)) is None


def test_a_closed_holder_leaves_what_is_whole_and_gives_the_rest_back(host):
    holder = host.holder()
    holder.write(0, 0, host.parts)
    holder.close()
    assert host.held() == [(0, 0, 0)]
    assert host.files() == ["slot-0", "table"]


# ---- damage ----


@pytest.fixture
def small(shared: Path) -> tuple[SlotDir, Held, np.ndarray]:
    slots = SlotDir.create(shared / "small", "run", capacity=8)
    state = np.arange(40)
    form = Form.of({"state": state, "text": 0})
    held = Holder(slots, 3, form, block=BLOCK).write(1, 2, [state, b"some text"], history=((1, 0), (2, 1))).held
    return slots, held, state


def unharmed(slots: SlotDir, held: Held, state: np.ndarray) -> bool:
    """Whether the snapshot can still be had; if so it has to be exactly what it was, or nothing at all."""
    found = slots.holdings()
    assert found in ([], [held])
    again = np.zeros_like(state)
    strings = slots.read(held, [again])
    assert slots.verify(held) is (strings if isinstance(strings, Refusal) else None)
    if not isinstance(strings, Refusal):
        assert np.array_equal(again, state)
        assert strings == [b"some text"]
    return not isinstance(strings, Refusal)


def test_every_wrong_bit_of_a_slot_is_noticed_or_in_nobodys_way(small):
    slots, held, state = small
    path = slots.file(held.slot)
    content = path.read_bytes()
    with open(path, "rb") as file:
        layout = slot_file.read_head(file.fileno(), held.slot, slots.table.run)[1]
    used = set(range(layout.history_at + 32))
    used |= set(range(layout.hashes_at, layout.hashes_at + 16))
    used |= set(range(layout.starts[0], layout.starts[0] + 320)) | set(range(layout.starts[1], layout.starts[1] + 9))
    assert unharmed(slots, held, state)
    with open(path, "r+b", buffering=0) as file:
        for at in range(len(content)):
            for bit in range(8) if at in used else (0,):
                os.pwrite(file.fileno(), bytes([content[at] ^ 1 << bit]), at)
                assert unharmed(slots, held, state) == (at not in used), at
            os.pwrite(file.fileno(), content[at : at + 1], at)
    assert unharmed(slots, held, state)


def test_every_wrong_bit_of_a_state_makes_it_no_state(small):
    slots, held, state = small
    path = slots.path / "table"
    line = 64 * (2 + held.slot)
    content = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for at in [*range(line, line + 8), *range(line + 16, line + 48)]:
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([content[at] ^ 1 << bit]), at)
                assert slots.holdings() == []
                assert slots.find(held.task, held.boundary) is None
            os.pwrite(file.fileno(), content[at : at + 1], at)
    assert unharmed(slots, held, state)


def test_no_wrong_bit_makes_a_snapshot_of_what_is_none(small):
    slots, held, _ = small
    slots.free(held, 2)
    path = slots.path / "table"
    content = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for at in range(128, len(content)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([content[at] ^ 1 << bit]), at)
                assert slots.holdings() == []
            os.pwrite(file.fileno(), content[at : at + 1], at)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_in_a_slot_is_no_snapshot(small, data):
    slots, held, state = small
    path = slots.file(held.slot)
    content = path.read_bytes()
    kind = data.draw(st.sampled_from(["overwritten", "replaced", "cut", "swollen"]))
    wrong = bytearray(content)
    if kind == "overwritten":
        at = data.draw(st.integers(0, 1500))
        piece = data.draw(st.binary(min_size=1, max_size=64))
        wrong[at : at + len(piece)] = piece
    elif kind == "replaced":
        wrong = bytearray(data.draw(st.binary(max_size=2000)))
    elif kind == "cut":
        del wrong[data.draw(st.integers(0, len(wrong) - 1)) :]
    else:
        field = data.draw(st.integers(0, 40))
        struct.pack_into("<Q", wrong, 8 * field, data.draw(st.integers(0, 2**64 - 1)))
    path.unlink()
    path.write_bytes(wrong)
    unharmed(slots, held, state)
    path.unlink()
    path.write_bytes(content)
    assert unharmed(slots, held, state)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_in_the_table_crashes_nobody(small, data):
    slots, held, state = small
    path = slots.path / "table"
    content, snapshot = path.read_bytes(), slots.file(held.slot).read_bytes()
    places, words = st.integers(8, len(content) // 8 - 1), st.binary(min_size=8, max_size=8)
    garbage = data.draw(st.lists(st.tuples(places, words), max_size=20))  # all of it first: a draw may end the example
    with open(path, "r+b", buffering=0) as file:
        for at, word in garbage:
            os.pwrite(file.fileno(), word, 8 * at)
        assert slots.holdings() in ([], [held])
        slots.raise_floor(3)
        slots.free_below(1, 3)
        os.pwrite(file.fileno(), content, 0)
    slots.file(held.slot).write_bytes(snapshot)  # which garbage may have called a free one's
    assert unharmed(slots, held, state)


def test_a_snapshot_of_another_run_is_none(small, shared):
    slots, _, _ = small
    other = SlotDir.create(shared / "other", "another run", capacity=8)
    shutil.copytree(slots.path, other.path, dirs_exist_ok=True, ignore=lambda *_: ["table"])
    table = bytearray((slots.path / "table").read_bytes())
    table[16:32] = other.table.run
    (other.path / "table").write_bytes(table)
    assert SlotDir.open(other.path).holdings() == []


@pytest.mark.parametrize("content", [b"", b"x" * 63, b"x" * 1024, bytes(64)])
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "table").write_bytes(content)
    with pytest.raises(ValueError, match="table"):
        SlotDir.open(tmp_path)
