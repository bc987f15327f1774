"""Values that are no plain arrays, and what it means that one arrived as it was."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np


class Color(enum.Enum):
    RED = 1


@dataclass
class Model:
    name: str
    weights: np.ndarray
    parts: list = field(default_factory=list)


class Tagged(np.ndarray):
    """A subclass with an attribute of its own."""

    def __reduce__(self):
        make, arguments, state = super().__reduce__()
        return make, arguments, (state, self.tag)

    def __setstate__(self, state):
        super().__setstate__(state[0])
        self.tag = state[1]


def tagged(values: np.ndarray, tag: str) -> Tagged:
    array = np.array(values).view(Tagged)
    array.tag = tag
    return array


def values() -> list[object]:
    """Make the same objects on every rank."""
    rng = np.random.default_rng(5)
    small, large = rng.normal(size=10), rng.normal(size=(200, 300))
    read_only = rng.normal(size=3)
    read_only.flags.writeable = False
    return [
        None,
        True,
        7,
        10**100,
        1.5,
        2 + 3j,
        "text \N{SNOWMAN}",
        b"bytes",
        b"x" * 100_000,
        bytearray(b"y" * 100_000),
        (),
        {"a": [1, (2, 3)], 4: {5, 6}},
        Color.RED,
        Fraction(1, 3),
        datetime.date(2020, 2, 29),
        range(10),
        slice(1, 2),
        np.float64,
        np.dtype(">i4"),
        len,
        ValueError("an error", 3),
        *(np.ones(1, code)[0] for code in "?bBhHiIlL" + np.typecodes["AllFloat"]),  # NumPy pickles a longlong as a long
        np.str_("scalar"),
        np.bytes_(b"scalar"),
        np.datetime64("2020-02-29T12", "h"),
        np.timedelta64(3, "us"),
        np.datetime64("NaT", "s"),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", ">f8")])[0],
        np.ma.array(small, mask=small > 0, fill_value=-1.0),
        np.ma.array(large, mask=large > 0),
        np.array([[1, 2], [3, 4]]).view(np.matrix),
        np.rec.array([(1, "a"), (2, "b")], dtype=[("n", "i4"), ("s", "U3")]),
        tagged(small, "a tag"),
        tagged(large, "a tag"),
        np.array([1, "two", None, [3]], dtype=object),
        np.array([[{}, ()], [b"", 1]], dtype=object, order="F"),
        np.array([(1, [2])], dtype=[("n", "i8"), ("o", "O")]),
        np.array(["short", "a string that is longer than what is kept in place" * 3], dtype=np.dtypes.StringDType()),
        np.array(["a", None], dtype=np.dtypes.StringDType(na_object=None)),
        np.empty((2, 3), "V0"),
        np.empty((2, 3), np.dtype([])),
        np.zeros(3, dtype=[("empty", "S0"), ("n", "i4")])["empty"],
        np.zeros(3, dtype=[("empty", "U0")])["empty"],
        [small, large, small],
        [large[:, ::2], large.T, large[::-1]],
        [read_only],
        {"model": Model("m", large, [small, None])},
        [np.full(n, n) for n in range(1000)],
        [np.full(4096, n % 256, np.uint8) for n in range(1000)],
        [bytearray(5000) for _ in range(300)],
        np.arange(6).reshape(2, 3).view(np.dtype("i8", metadata={"unit": "m"})),
    ]


def same(got: object, put: object) -> bool:
    """Compare type and value, NumPy's with dtype, shape and bytes."""
    if type(got) is not type(put):
        return False
    if isinstance(put, np.ma.MaskedArray):
        return same(got.data, put.data) and same(got.mask, put.mask) and got.fill_value == put.fill_value
    if isinstance(put, np.ndarray):
        return (
            (got.dtype, got.dtype.metadata, got.shape) == (put.dtype, put.dtype.metadata, put.shape)
            and (got.tolist() == put.tolist() if put.dtype.hasobject else got.tobytes() == put.tobytes())
            and getattr(got, "tag", None) == getattr(put, "tag", None)
        )
    if isinstance(put, np.generic):
        return got.dtype == put.dtype and repr(got) == repr(put)
    if isinstance(put, list | tuple):
        return len(got) == len(put) and all(map(same, got, put))
    if isinstance(put, dict):
        return got.keys() == put.keys() and all(same(got[key], put[key]) for key in put)
    if isinstance(put, Model):
        return same((got.name, got.weights, got.parts), (put.name, put.weights, put.parts))
    if isinstance(put, Exception):
        return got.args == put.args
    return got == put


def own(value: object) -> bool:
    """Tell whether an array that is the whole value is writable and owns its memory."""
    return type(value) is not np.ndarray or (value.flags.writeable and value.flags.owndata)


if __name__ == "__main__":
    from programs import bare, objects  # itself: the classes are to be pickled under the name that tests know
    from programs.carry import carrying

    known = objects.values()

    def check(epoch: int, value: object) -> None:
        assert objects.same(value, known[epoch]), f"{known[epoch]!r:.500} arrived as {value!r:.500}"
        assert objects.own(value), f"{known[epoch]!r:.500} arrived without memory of its own"

    status = bare.start(carrying([lambda value=value: value for value in known], check))
    print(f"{len(known)} objects carried, status {status}")
