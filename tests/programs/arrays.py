"""Arrays of every kind, made from a recipe that two processes share, and what it means that one arrived as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Recipe(NamedTuple):
    """How to make an array: the same on every rank."""

    dtype: np.dtype
    shape: tuple[int, ...]
    layout: str
    seed: int


def _memory(recipe: Recipe, nbytes: int) -> bytearray:
    return bytearray(np.random.default_rng(recipe.seed).bytes(nbytes))


def _plain(recipe: Recipe, order: str = "C", offset: int = 0) -> np.ndarray:
    nbytes = int(np.prod(recipe.shape, dtype=np.int64)) * recipe.dtype.itemsize
    memory = _memory(recipe, offset + nbytes)
    return np.ndarray(recipe.shape, recipe.dtype, memory, offset=offset, order=order)


def _read_only(recipe: Recipe) -> np.ndarray:
    array = _plain(recipe)
    array.flags.writeable = False
    return array


def _every_other(recipe: Recipe) -> np.ndarray:
    wide = _plain(recipe._replace(shape=tuple(2 * n for n in recipe.shape)))
    return wide[(..., *(slice(None, None, 2),) * wide.ndim)]


def _reversed(recipe: Recipe) -> np.ndarray:
    array = _plain(recipe)
    return array[(..., *(slice(None, None, -1),) * array.ndim)]


LAYOUTS = {
    "C": _plain,
    "F": lambda recipe: _plain(recipe, "F"),
    "read-only": _read_only,
    "unaligned": lambda recipe: _plain(recipe, offset=1),
    "transposed": lambda recipe: _plain(recipe).T,
    "rolled axes": lambda recipe: np.moveaxis(_plain(recipe), -1, 0) if recipe.shape else _plain(recipe),
    "every other": _every_other,
    "reversed": _reversed,
    "zero strides": lambda recipe: np.broadcast_to(_plain(recipe), (3, *recipe.shape)),
}


def build(recipe: Recipe) -> np.ndarray:
    """Make the array. Its memory is random bytes, so that every bit of every item counts, padding too."""
    return LAYOUTS[recipe.layout](recipe)


def _leaves(array: np.ndarray) -> Iterator[bytes]:
    """Return the bytes of each innermost field: what a structure holds, padding apart."""
    if array.dtype.names:
        for name in array.dtype.names:
            yield from _leaves(array[name])
    else:
        yield array.tobytes()


def assert_arrived(got: object, put: np.ndarray) -> None:
    """Say that an array arrived as it was put, and is the receiver's own."""
    assert type(got) is np.ndarray
    assert got.dtype == put.dtype
    assert got.dtype.isalignedstruct == put.dtype.isalignedstruct
    assert got.dtype.metadata == put.dtype.metadata
    assert got.shape == put.shape
    assert list(_leaves(got)) == list(_leaves(put))
    if put.flags.c_contiguous or put.flags.f_contiguous:
        assert got.tobytes("A") == put.tobytes("A")
        assert got.flags.f_contiguous == put.flags.f_contiguous
        assert got.flags.c_contiguous == put.flags.c_contiguous
    assert got.flags.writeable
    assert got.flags.owndata
    assert got.flags.aligned
    assert not np.may_share_memory(got, put)
