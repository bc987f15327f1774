"""Blocks of a slot: what is copied, what counts as changed, and what the checksum notices."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskgraph._native.blocks import Blocks

BLOCK = 1024
ROOMS = (3000, 0, 5000)
STARTS = (1024, 4096, 4096)
MASK = 2**64 - 1


def blocks(rooms=ROOMS, starts=STARTS, size=16384) -> Blocks:
    return Blocks(mmap.mmap(-1, size), BLOCK, rooms, starts, 0)


def splitmix(count: int) -> list[int]:
    keys, state = [], 0
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        keys.append(z ^ z >> 31)
    return keys


KEY = splitmix(24)


def digest(data: bytes) -> int:
    """The hash of a block, as a slot keeps it."""
    memory = mmap.mmap(-1, 16384)
    Blocks(memory, 8192, [8192], [64], 0).write([data], None, 1)
    return int.from_bytes(memory[:8], "little")


def slow_digest(data: bytes) -> int:
    """The hash as `blockhash.pxd` describes it, in plain integers."""
    lanes = KEY[:8]
    padded = data + bytes(-len(data) % 64)
    for index in range(len(padded) // 64):
        words = np.frombuffer(padded, "<u8", 8, 64 * index).tolist()
        for k, word in enumerate(words):
            keyed = word ^ KEY[(index & 15) + k]
            lanes[k ^ 1] = (lanes[k ^ 1] + word) & MASK
            lanes[k] = (lanes[k] + (keyed & 0xFFFFFFFF) * (keyed >> 32)) & MASK
        if index & 15 == 15 and index < len(data) // 64 + 1:
            lanes = [(lane ^ lane >> 47 ^ KEY[16 + k]) * 0x9E3779B1 & MASK for k, lane in enumerate(lanes)]
    value = len(data) * 0x9E3779B185EBCA87 & MASK
    for k in range(0, 8, 2):
        product = (lanes[k] ^ KEY[8 + k]) * (lanes[k + 1] ^ KEY[9 + k])
        value = (value + ((product & MASK) ^ product >> 64)) & MASK
    value = (value ^ value >> 37) * 0x165667919E3779F9 & MASK
    return value ^ value >> 32


@pytest.mark.parametrize("nbytes", [1, 7, 63, 64, 65, 960, 1000, 1023, 1024, 1025, 4096, 5001])
def test_the_hash_is_the_one_that_its_description_says(nbytes):
    data = np.random.default_rng(nbytes).bytes(nbytes)
    assert digest(data) == slow_digest(data)


def test_the_hash_notices_every_single_bit():
    data = bytearray(np.random.default_rng(0).bytes(1500))
    right = digest(data)
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        assert digest(data) != right
        data[bit // 8] ^= 1 << bit % 8


def test_the_hash_tells_zeros_from_more_zeros():
    assert len({digest(bytes(n)) for n in range(1, 300)}) == 299


def test_without_a_base_everything_is_changed():
    slot = blocks()
    slot.write([bytes(3000), b"", bytes(100)], None, 1)
    assert slot.changes() == slot.everything() == [(0, 0, 3), (2, 0, 1)]


def test_only_the_blocks_that_differ_are_changed():
    old, new = blocks(), blocks()
    state = [np.zeros(375), b"", b"a" * 2500]
    old.write(state, None, 1)
    state[0][130] = 1
    new.write([state[0], b"", b"a" * 2048 + b"b" * 452], old, 2)
    assert new.changes() == [(0, 1, 1), (2, 2, 1)]
    assert [new.place(run) for run in new.changes()] == [(STARTS[0] + 1024, 1024), (STARTS[2] + 2048, 452)]


@pytest.mark.parametrize("grown", [2600, 2048, 2400, 0])
def test_a_string_of_another_length_is_changed_from_its_last_block_on(grown):
    old, new = blocks(), blocks()
    old.write([b"", b"", bytes(2500)], None, 1)
    new.write([b"", b"", bytes(grown)], old, 2)
    assert new.changes() == ([(2, 2, 1)] if grown > 2048 else [])
    assert new.read(0) == new.checksum(0) != old.checksum(0)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(0, 7999), max_size=6), st.integers(0, 5000)), max_size=12
    )
)
@settings(max_examples=150, deadline=None)
def test_three_slots_in_turn_always_hold_what_was_written(steps):
    """Also where a slot holds a snapshot of long ago, of which only some blocks are taken in anew."""
    slots, backup = [blocks() for _ in range(3)], [blocks() for _ in range(3)]
    fixed, string = np.zeros(3000, np.uint8), bytearray(5000)
    base = None
    for version, (into, places, length) in enumerate(steps, 1):
        for place in places:
            (fixed if place < 3000 else string)[place % 3000 if place < 3000 else place - 3000] += (
                1 if place < 3000 else 0
            )
            string[place % 5000] = version
        if into == base:
            into = (into + 1) % 3
        old = None if base is None else slots[base]
        slots[into].write([fixed, b"", string[:length]], old, version)
        found = [bytearray(3000), bytearray(), bytearray(length)]
        assert slots[into].read(7, found) == slots[into].checksum(7)
        assert found == [bytearray(fixed.tobytes()), b"", string[:length]]

        runs = slots[into].changes()
        memory = [bytes(fixed), b"", bytes(string[:length])]
        payload = b"".join(memory[p][BLOCK * first : BLOCK * (first + count)] for p, first, count in runs)
        cut = [payload[: len(payload) // 3], b"", payload[len(payload) // 3 :]]
        assert backup[into].apply([3000, 0, length], runs, cut, None if base is None else backup[base], version)
        assert backup[into].checksum(7) == backup[into].read(7) == slots[into].checksum(7)
        base = into


def test_what_changed_arrives_on_top_of_the_base_only():
    old, new = blocks(), blocks()
    old.write([bytes(3000), b"", b""], None, 1)
    assert new.apply([3000, 0, 0], [(0, 1, 1)], [b"x" * 1024], old, 2)
    found = [bytearray(3000), bytearray(), bytearray()]
    assert new.read(0, found) == new.checksum(0)
    assert found[0] == bytes(1024) + b"x" * 1024 + bytes(952)


@pytest.mark.parametrize(
    ("lengths", "runs", "frames"),
    [
        ([3000, 0, 0], [(0, 1, 1)], [bytes(1023)]),
        ([3000, 0, 0], [(0, 1, 1)], [bytes(1024), b"x"]),
        ([3000, 0, 0], [(0, 1, 1)], []),
        ([3000, 0, 0], [(0, 3, 1)], [bytes(1024)]),
        ([3000, 0, 0], [(0, 1, 2**64 - 1)], [bytes(1024)]),
        ([3000, 0, 0], [(3, 0, 1)], [bytes(1024)]),
        ([3000, 0, 0], [(0, 1, 1), (0, 0, 1)], [bytes(2048)]),
        ([3000, 0, 0], [(0, 0, 2), (0, 1, 1)], [bytes(3072)]),
        ([3000, 0, 0], [(0, 0, 0)], []),
        ([3000, 0, 2000], [], []),
        ([2999, 0, 0], [], []),
    ],
)
def test_what_does_not_fit_together_is_not_applied(lengths, runs, frames):
    old, new = blocks(), blocks()
    old.write([bytes(3000), b"", b""], None, 1)
    assert not new.apply(lengths, runs, frames, old, 2)


def test_what_changed_is_of_no_use_without_its_base():
    assert not blocks().apply([3000, 0, 0], [(0, 1, 1)], [bytes(1024)], None, 1)


@pytest.mark.parametrize(
    ("rooms", "starts", "hashes_at"),
    [
        ((3000,), (14000,), 0),
        ((2**63,), (1024,), 0),
        ((3000,), (1025,), 0),
        ((3000,), (2**40,), 0),
        ((3000, 10), (1024,), 0),
        ((3000,), (1024,), 16380),
        ((3000,), (1024,), 4),
    ],
)
def test_no_block_lies_outside_the_memory(rooms, starts, hashes_at):
    with pytest.raises((ValueError, MemoryError)):
        Blocks(mmap.mmap(-1, 16384), BLOCK, rooms, starts, hashes_at)


def test_a_part_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="part 0 of 3001 bytes"):
        blocks().write([bytes(3001), b"", b""], None, 1)


def test_arrays_of_every_kind_go_in_and_out():
    arrays = [
        np.array("2026-01-01", "M8[s]"),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.empty((0, 3), ">i4"),
        np.array([(1, 2.5)], [("a", "i2"), ("b", "f8")]),
        np.array([True, False]),
    ]
    slot = Blocks(mmap.mmap(-1, 16384), BLOCK, [a.nbytes for a in arrays], [1024 + 1024 * i for i in range(5)], 0)
    slot.write(arrays, None, 1)
    found = [np.empty_like(array) for array in arrays]
    assert slot.read(1, found) == slot.checksum(1)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, found, strict=True))


def test_an_array_with_gaps_is_refused():
    with pytest.raises(ValueError, match="not contiguous"):
        blocks().write([np.zeros(6000, np.uint8)[::2], b"", b""], None, 1)


def test_large_slots_are_written_past_the_caches_and_read_back_whole():
    state = np.random.default_rng(0).integers(0, 256, (5 << 20) + 77, np.uint8)
    memory = mmap.mmap(-1, 6 << 20)
    slot = Blocks(memory, BLOCK, [state.nbytes], [65536], 0)
    slot.write([state], None, 1)
    found = np.empty_like(state)
    assert slot.read(0, [found]) == slot.checksum(0)
    assert np.array_equal(found, state)
    unaligned = np.empty(state.nbytes + 1, np.uint8)[1:]
    assert slot.read(0, [unaligned]) == slot.checksum(0)
    assert np.array_equal(unaligned, state)
