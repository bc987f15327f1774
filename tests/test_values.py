"""What arrives equals what was put, whichever way it went: dtype, shape, bytes, and it is the receiver's own."""

from __future__ import annotations

import os
import pickle
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jobs import get_into, put, run
from programs import objects
from programs.arrays import LAYOUTS, Recipe, assert_arrived, build
from programs.carry import carrying

import taskgraph as tg
from taskgraph._native.message import eager_bytes

PROGRAMS = Path(__file__).parent / "programs"
MPI_ENV = {"PYTHONPATH": os.pathsep.join(filter(None, [str(PROGRAMS.parent), os.environ.get("PYTHONPATH")]))}

by_both_ways = pytest.mark.parametrize("ranks", [1, 2], ids=["within a rank", "between ranks"])

items = st.one_of(
    hnp.scalar_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64, 128)),
    hnp.complex_number_dtypes(sizes=(64, 128, 256)),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(),
    st.integers(1, 40).map(lambda size: np.dtype(f"V{size}")),
    st.just(np.dtype("f8", metadata={"unit": "m"})),
)


def structure(formats: Sequence[np.dtype], gaps: Sequence[int]) -> np.dtype:
    """Make a structure with gaps of undeclared bytes between its fields."""
    offsets, at = [], 0
    for dtype, gap in zip(formats, gaps, strict=True):
        offsets.append(at + gap)
        at = offsets[-1] + dtype.itemsize
    names = [f"f{i}" for i in range(len(formats))]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at + gaps[0]})


formats = st.lists(items, min_size=1, max_size=4)
dtypes = st.one_of(
    items,
    hnp.nested_dtypes(items, max_leaves=5).map(lambda dtype: dtype.base),
    formats.map(lambda f: np.dtype({"names": [f"f{i}" for i in range(len(f))], "formats": f}, align=True)),
    formats.flatmap(
        lambda f: st.builds(structure, st.just(f), st.lists(st.integers(0, 9), min_size=len(f), max_size=len(f)))
    ),
).filter(lambda dtype: dtype.itemsize > 0)
recipes = st.builds(
    Recipe,
    dtypes,
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    st.sampled_from(sorted(LAYOUTS)),
    st.integers(0, 2**32),
)


def carried(values: Sequence[object], ranks: int) -> list[object]:
    """Send values from task 0 to task 1, and return what came out."""
    got: list[object] = []
    job = carrying([lambda value=value: value for value in values], lambda epoch, value: got.append(value))
    assert tg.testing.run(job, ranks=ranks) == 0
    return got


@by_both_ways
@settings(deadline=None, max_examples=300)
@given(recipe=recipes)
def test_every_array_arrives_as_it_is(ranks, recipe):
    array = build(recipe)
    (got,) = carried([array], ranks)
    assert_arrived(got, array)


def test_every_array_arrives_as_it_is_over_mpi(mpirun, tmp_path):
    many: list[Recipe] = []

    @settings(derandomize=True, deadline=None, database=None, max_examples=400)
    @given(recipe=recipes)
    def collect(recipe):
        many.append(recipe)

    collect()
    assert {recipe.layout for recipe in many} == set(LAYOUTS)
    (tmp_path / "recipes").write_bytes(pickle.dumps(many))
    done = mpirun.run(PROGRAMS / "carry.py", ranks=2, args=[tmp_path / "recipes"], env=MPI_ENV)
    assert done.stdout.splitlines() == [f"{len(many)} arrays carried, status 0"] * 2, done


def around_the_eager_limit() -> list[Recipe]:
    """Return arrays whose headers and payloads together are just below, at and above one eager message."""
    structured = np.dtype([("a", ">u4"), ("b", "S12")])
    wide = np.dtype([(f"a_field_with_a_long_name_{i}", "<f4") for i in range(200)])
    return [
        *(Recipe(np.dtype("u1"), (n,), "C", n) for n in range(eager_bytes - 80, eager_bytes + 8)),
        *(Recipe(np.dtype("u1"), (2, n // 2, 1), "F", n) for n in range(eager_bytes - 80, eager_bytes + 8, 2)),
        *(Recipe(np.dtype(">u2"), (n // 2,), "C", n) for n in range(eager_bytes - 400, eager_bytes, 2)),
        *(Recipe(structured, (n,), "C", n) for n in range(eager_bytes // 16 - 25, eager_bytes // 16 + 1)),
        *(Recipe(wide, (n,), "every other", n) for n in range(12)),
        *(Recipe(np.dtype("u1"), (n,), "C", n) for n in (2 * eager_bytes - 48, 2 * eager_bytes - 47, 16384, 16385)),
        *(Recipe(np.dtype("f8"), (n,), "C", n) for n in (8191, 8192, 8193, 300_000)),
        *(Recipe(np.dtype("f8"), (300, n), "F", n) for n in (30, 1000)),
        Recipe(np.dtype("f4"), (1,) * 64, "C", 1),
        Recipe(np.dtype("f4"), (4096, *(1,) * 63), "C", 1),
    ]


@by_both_ways
def test_sizes_around_the_limit_of_an_eager_message_make_no_difference(ranks):
    arrays = [build(recipe) for recipe in around_the_eager_limit()]
    for got, array in zip(carried(arrays, ranks), arrays, strict=True):
        assert_arrived(got, array)


def test_sizes_around_the_limit_of_an_eager_message_make_no_difference_over_mpi(mpirun, tmp_path):
    many = around_the_eager_limit()
    (tmp_path / "recipes").write_bytes(pickle.dumps(many))
    done = mpirun.run(PROGRAMS / "carry.py", ranks=2, args=[tmp_path / "recipes"], env=MPI_ENV)
    assert done.stdout.splitlines() == [f"{len(many)} arrays carried, status 0"] * 2, done


@by_both_ways
@pytest.mark.parametrize("large", [False, True])
def test_a_dtype_too_long_for_a_header_arrives_and_the_array_is_still_the_receivers_own(ranks, large):
    dtype = np.dtype([(f"a_field_with_a_long_name_{i}", "<f4") for i in range(500)])
    recipe = Recipe(dtype, (1000 if large else 1,), "read-only", 3)
    (got,) = carried([build(recipe)], ranks)
    assert_arrived(got, build(recipe))


@by_both_ways
def test_a_dtype_whose_fields_were_renamed_in_place_arrives_with_the_new_names(ranks):
    dtype = np.dtype([("a", "<i4"), ("b", "<f8")])
    got = []

    def renamed():
        dtype.names = ("x", "b")
        return np.ones(2, dtype)

    job = carrying([lambda: np.ones(2, dtype), renamed], lambda epoch, value: got.append(value.dtype.names))
    tg.testing.run(job, ranks=ranks)
    assert got == [("a", "b"), ("x", "b")]


@by_both_ways
def test_every_other_object_keeps_its_type(ranks):
    known = objects.values()
    for got, given_ in zip(carried(known, ranks), known, strict=True):
        assert objects.same(got, given_), f"{given_!r:.500} arrived as {got!r:.500}"
        assert objects.own(got)


def test_every_other_object_keeps_its_type_over_mpi(mpirun):
    done = mpirun.run(PROGRAMS / "objects.py", ranks=2, env=MPI_ENV)
    assert done.stdout.splitlines() == [f"{len(objects.values())} objects carried, status 0"] * 2, done


@by_both_ways
def test_what_an_object_holds_is_not_shared_with_the_sender(ranks):
    inner = np.zeros(10_000)
    put = {"array": inner, "list": [1]}
    (got,) = carried([put], ranks)
    got["array"][:] = 1
    got["list"].append(2)
    assert not inner.any()
    assert put["list"] == [1]


@by_both_ways
def test_an_object_that_changes_after_the_put_arrives_as_it_was(ranks):
    class Sender(tg.Task):
        def set_epoch(self, ctx, epoch):
            ctx.compose(self.send, outs=ctx.outbound(1, "value"))

        def send(self, ins, outs):
            value = [np.zeros(10_000), bytearray(10_000)]
            outs[0].put(value)
            value[0][:] = 1
            value[1][:] = b"1" * 10_000

    class Receiver(tg.Task):
        def set_epoch(self, ctx, epoch):
            ctx.compose(self.receive, ins=ctx.inbound(0, "value"))

        def receive(self, ins, outs):
            array, buffer = ins[0].get()
            assert not array.any()
            assert not any(buffer)

    job = tg.Job("late", num_tasks=2, epochs=1)
    job.set_task_builder(lambda task: Receiver() if task else Sender())
    assert tg.testing.run(job, ranks=ranks) == 0


@by_both_ways
def test_a_memoryview_is_refused_with_what_to_put_instead(ranks):
    with pytest.raises(tg.UsageError, match=r"channel 0 -> 1 'value' was put a memoryview.* numpy.asarray\(view\)"):
        carried([memoryview(b"abc")], ranks)


@by_both_ways
def test_an_object_that_cannot_be_pickled_is_refused_at_the_put(ranks):
    with pytest.raises(tg.GraphError, match="channel 0 -> 1 'value' was put what cannot be pickled: ") as raised:
        carried([lambda: None], ranks)
    assert any(entry.name == "send" for entry in raised.traceback)
    assert isinstance(raised.value.__cause__, TypeError | AttributeError | pickle.PicklingError)


@by_both_ways
def test_an_array_that_is_lent_to_another_channel_arrives_writable_within_an_object(ranks):
    got = []
    array = np.arange(100_000.0)

    def give(ctx, epoch):
        def compute(ins, outs):
            outs[0].put(array)
            outs[1].put({"the same": array})

        ctx.compose(compute, outs=[ctx.outbound(1, "array"), ctx.outbound(1, "object")])

    def take(ctx, epoch):
        ctx.compose(get_into(got), [ctx.inbound(0, "array"), ctx.inbound(0, "object")])

    assert run(give, take, ranks=ranks) == 0
    plain, within = got[0], got[1]["the same"]
    assert plain.flags.writeable and within.flags.writeable
    assert np.array_equal(plain, array) and np.array_equal(within, array)


class Named:
    """Something that an array refers to."""


@by_both_ways
def test_what_a_value_refers_to_is_let_go_when_its_processor_has_computed(ranks):
    seen, still_there = [], []

    def compose(ctx, epoch):
        still_there.extend(ref for ref in seen if ref() is not None)
        ctx.compose(lambda ins, outs: seen.append(weakref.ref(ins[0].get()[0])), ctx.inbound(0, "x"))

    def give(ctx, epoch):
        ctx.compose(put(np.array([Named()], dtype=object)), outs=ctx.outbound(1, "x"))

    assert run(give, compose, epochs=4, ranks=ranks) == 0
    assert len(seen) == 4
    assert not still_there


def test_the_memory_of_a_small_value_takes_the_next_one_only_where_nobody_can_notice(mpirun):
    done = mpirun.run(PROGRAMS / "kept_values.py", ranks=2)
    assert done.stdout.splitlines() == ["all as they were put"]
