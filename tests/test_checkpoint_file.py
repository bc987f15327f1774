"""The file of a task in a checkpoint: what is read is what was written, or it is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from taskgraph.backends.checkpoint_file import Reader, describe, memory_of, size_of, write
from taskgraph.errors import CheckpointDamaged
from taskgraph.plan.manifest import Manifest, Name
from tests.checkpoints import RUN, head_of, manifest_of, parts_of

DTYPES = st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes(), hnp.array_dtypes(max_size=3)).filter(
    lambda dtype: not dtype.hasobject
)
SMALL = {"w": np.arange(3.0), "n": np.int16([[1, 2], [3, 4]]), "text": b"some bytes"}


def content(state: dict) -> bytes:
    stream = io.BytesIO()
    assert write(stream, head_of(state), parts_of(state), lambda: True)
    return stream.getvalue()


def read(data: bytes, size: int | None = None) -> list[bytes]:
    reader = Reader(io.BytesIO(data), len(data) if size is None else size)
    targets = [bytearray(length) for length in reader.head.lengths]
    reader.fill(targets)
    return [bytes(target) for target in targets]


@given(st.data())
def test_any_array_and_any_bytes_come_back_as_they_were(data):
    array = data.draw(hnp.arrays(data.draw(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
    array = np.array(array, order=data.draw(st.sampled_from("CF")))
    state = {"a": array, "b": data.draw(st.binary(max_size=200))}
    head = head_of(state)
    file = content(state)
    assert len(file) == size_of(head)
    assert Reader(io.BytesIO(file), len(file)).head == head
    again = np.empty_like(array)
    found = bytearray(len(state["b"]))
    Reader(io.BytesIO(file), len(file)).fill([memory_of(again), found])
    assert again.tobytes("A") == array.tobytes("A")
    assert bytes(found) == state["b"]


@given(st.text(min_size=1))
def test_any_name_of_state_is_written(name):
    file = content({name: np.zeros(2)})
    assert Reader(io.BytesIO(file), len(file)).head.parts == describe({name: np.zeros(2)})


def test_a_file_flipped_in_any_bit_is_refused():
    file = content(SMALL)
    for at in range(len(file)):
        for bit in range(8):
            flipped = bytearray(file)
            flipped[at] ^= 1 << bit
            with pytest.raises(CheckpointDamaged):
                read(bytes(flipped))


def test_a_file_cut_at_any_length_or_with_something_behind_it_is_refused():
    file = content(SMALL)
    for length in range(len(file)):
        for said in (length, len(file)):
            with pytest.raises(CheckpointDamaged):
                read(file[:length], said)
    for said in (len(file), len(file) + 1):
        with pytest.raises(CheckpointDamaged):
            read(file + b"x", said)


@given(st.binary(max_size=300))
def test_no_bytes_that_begin_like_a_file_do_anything_but_be_refused(data):
    for start in (b"", b"tgckpt1\n", content(SMALL)[:16], content(SMALL)[:60]):
        with pytest.raises(CheckpointDamaged):
            read(start + data)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda s: (
            st.lists(s)
            | st.dictionaries(
                st.sampled_from(
                    ["job", "parts", "lengths", "task", "boundary", "run", "num_tasks", "generation", "delivered"]
                ),
                s,
            )
        ),
    )
)
def test_no_head_of_another_shape_does_anything_but_be_refused(value):
    import json

    body = json.dumps(value).encode()
    with pytest.raises(CheckpointDamaged):
        read(b"tgckpt1\n" + len(body).to_bytes(8, "little") + body + bytes(16))


@pytest.mark.parametrize("good", range(5))  # once for the head and each part, and in the end
def test_what_was_changed_while_it_was_written_is_refused_by_every_reader(good):
    stream = io.BytesIO()
    answers = iter([*[True] * good, False])
    assert not write(stream, head_of(SMALL), parts_of(SMALL), lambda: next(answers))
    with pytest.raises(CheckpointDamaged):
        read(stream.getvalue())


def test_a_manifest_flipped_in_any_bit_or_cut_anywhere_is_refused():
    whole = manifest_of(sizes=(10, 20), history={0: 0, 1: 3}).encode()
    assert Manifest.decode(whole) == manifest_of(sizes=(10, 20), history={0: 0, 1: 3})
    for at in range(len(whole)):
        with pytest.raises(ValueError, match="manifest"):
            Manifest.decode(whole[:at])
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            with pytest.raises(ValueError, match="manifest"):
                Manifest.decode(bytes(flipped))


@given(st.integers(0, 10**17), st.integers(0, 10**17))
def test_a_name_is_read_as_it_is_written(boundary, generation):
    name = Name(boundary, RUN, generation)
    assert Name.parse(str(name)) == name


@pytest.mark.parametrize("text", [
    "", ".", "..", "../4." + RUN + ".0", f"4.{RUN}.0/..", f"04.{RUN}.0", f"-4.{RUN}.0", f"4.{RUN}", f"4.{RUN}.0\n",
    f"4.{RUN.upper()}.0", f"\u0664.{RUN}.0", f"4.{RUN[1:]}.0", f"4/{RUN}/0"])  # fmt: skip
def test_what_is_no_name_is_never_taken_for_one(text):
    assert Name.parse(text) is None
