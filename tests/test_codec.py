"""Objects as frames, dtypes as bytes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from taskgraph.program.codec import BESIDE_BYTES, MAX_DTYPES, MAX_FRAMES, Codec

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def arrived(frames: list) -> list[np.ndarray]:
    """Return frames as a transport delivers them: writable memory."""
    return [np.frombuffer(bytearray(frame), np.uint8) for frame in frames]


@given(trees)
def test_objects_come_back_equal(value):
    codec = Codec()
    assert codec.decode(arrived(codec.encode(value))) == value
    assert codec.copy(value) == value


@pytest.mark.parametrize("size", [BESIDE_BYTES - 8, BESIDE_BYTES, BESIDE_BYTES + 8])
def test_large_buffers_travel_beside_the_stream(size):
    array = np.arange(size // 8)
    frames = Codec().encode([array])
    assert len(frames) == (2 if size >= BESIDE_BYTES else 1)
    assert (len(frames[0]) < 500) == (size >= BESIDE_BYTES)


def test_there_are_never_too_many_frames():
    value = [np.full(BESIDE_BYTES, i % 256, np.uint8) for i in range(2 * MAX_FRAMES)]
    frames = Codec().encode(value)
    assert len(frames) == MAX_FRAMES
    assert all(map(np.array_equal, Codec().decode(arrived(frames)), value))


def test_frames_are_copies():
    array = np.zeros(BESIDE_BYTES)
    frames = Codec().encode([array, bytearray(b"0" * BESIDE_BYTES)])
    array[:] = 1
    assert not np.frombuffer(frames[1]).any()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("size", [3, 100])
def test_an_array_that_is_the_whole_object_gets_memory_of_its_own(size, order):
    array = np.asarray(np.arange(size * size).reshape(size, size), order=order)
    array.flags.writeable = False
    got = Codec().decode(arrived(Codec().encode(array)))
    assert np.array_equal(got, array)
    assert got.flags.owndata
    assert got.flags.writeable
    assert got.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("value", [None, True, 3, 2.5, 1j, "text", b"bytes"])
def test_what_cannot_change_is_its_own_copy(value):
    assert Codec().copy(value) is value


def test_a_tuple_is_copied_for_what_it_holds():
    inner = [1]
    (got,) = Codec().copy((inner,))
    assert got == inner
    assert got is not inner


@given(st.one_of(hnp.scalar_dtypes(), hnp.nested_dtypes(hnp.scalar_dtypes(), max_leaves=5)))
def test_dtypes_come_back_equal(dtype):
    codec = Codec()
    assert codec.load_dtype(codec.dump_dtype(dtype)) == dtype
    assert codec.load_dtype(codec.dump_dtype(dtype)) is codec.load_dtype(codec.dump_dtype(dtype))


def test_a_dtype_whose_fields_were_renamed_is_dumped_and_loaded_anew():
    codec = Codec()
    dtype = np.dtype([("a", "i4")])
    before = codec.dump_dtype(dtype)
    loaded = codec.load_dtype(before)
    dtype.names = ("b",)
    assert codec.load_dtype(codec.dump_dtype(dtype)).names == ("b",)
    loaded.names = ("c",)  # by a receiver, of its own array
    assert codec.load_dtype(before).names == ("a",)


def test_dtypes_are_not_remembered_without_end():
    codec = Codec()
    for size in range(1, 3 * MAX_DTYPES):
        codec.load_dtype(codec.dump_dtype(np.dtype(f"V{size}")))
    assert len(codec._dumped) <= MAX_DTYPES
    assert len(codec._loaded) <= MAX_DTYPES


@pytest.mark.parametrize("value", [np.dtype("O"), np.dtype([("a", "O")]), np.dtypes.StringDType(), "f8", 5])
def test_bytes_that_are_no_plain_dtype_are_refused(value):
    with pytest.raises(ValueError, match="does not hold a plain dtype"):
        Codec().load_dtype(pickle.dumps(value))
