"""Objects as bytes: pickle 5 with the large buffers beside the stream, and dtypes that have no number.

Everything returned for sending is a copy: the object may change while it travels.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph.errors import CannotPickle

BESIDE_BYTES = 4096
"""Buffers from this size on travel beside the stream."""

MAX_FRAMES = 256
"""Pieces an object may be sent in; further buffers stay in the stream."""

MAX_DTYPES = 256
"""Dtypes remembered in each direction."""

_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})


class Codec:
    """Turns objects into frames and back. One for each rank, used by one thread."""

    def __init__(self) -> None:
        # With the hash at that time: a dtype is not immutable, its fields can be renamed in place.
        self._dumped: dict[int, tuple[np.dtype[Any], int, bytes]] = {}
        self._loaded: dict[bytes, tuple[np.dtype[Any], int]] = {}

    def encode(self, value: object) -> list[Any]:
        """Return the pickle stream, then the large buffers: objects that export bytes, not shared with `value`.

        Raises
        ------
        CannotPickle
        """
        beside: list[bytearray] = []
        stream = io.BytesIO()

        def keep_in_stream(buffer: pickle.PickleBuffer) -> bool:
            with buffer.raw() as raw:
                if raw.nbytes < BESIDE_BYTES or len(beside) + 1 >= MAX_FRAMES:
                    return True
                beside.append(bytearray(raw))
                return False

        pickler = pickle.Pickler(stream, protocol=5, buffer_callback=keep_in_stream)
        pickler.dispatch_table = {**copyreg.dispatch_table, np.ndarray: _reduced}
        try:
            pickler.dump(value)
        except Exception as error:
            raise CannotPickle(error) from error
        return [stream.getbuffer(), *beside]

    def decode(self, frames: Sequence[Any]) -> object:
        """Make the object again. It takes over the memory of the frames behind the first, which must be writable.

        An array that is the whole object gets memory of its own.

        Raises
        ------
        CannotPickle
        """
        try:
            value = pickle.loads(frames[0], buffers=frames[1:])
        except Exception as error:
            raise CannotPickle(error) from error
        return value.copy(order="A") if type(value) is np.ndarray and not value.flags.owndata else value

    def copy(self, value: object) -> object:
        """Return an equal object that shares nothing with `value` which could be changed."""
        if type(value) in _PLAIN:
            return value
        return self.decode(self.encode(value))

    def dump_dtype(self, dtype: np.dtype[Any]) -> bytes:
        """Return a dtype as bytes."""
        known = self._dumped.get(id(dtype))
        if known is None or known[1] != hash(dtype):
            if len(self._dumped) >= MAX_DTYPES:
                self._dumped.clear()
            known = self._dumped[id(dtype)] = (dtype, hash(dtype), pickle.dumps(dtype, protocol=5))
        return known[2]

    def load_dtype(self, data: bytes) -> np.dtype[Any]:
        """Make the dtype again. Raises ValueError where the bytes are no dtype whose arrays are plain memory."""
        known = self._loaded.get(data)
        if known is not None and known[1] == hash(known[0]):
            return known[0]
        dtype = pickle.loads(data)
        if not isinstance(dtype, np.dtype) or dtype.hasobject:
            raise ValueError("the header of a message does not hold a plain dtype")
        if len(self._loaded) >= MAX_DTYPES:
            self._loaded.clear()
        self._loaded[data] = (dtype, hash(dtype))
        return dtype


def _reduced(array: NDArray[Any]) -> Any:
    """Reduce an array within an object so that it arrives writable, as every array does.

    It may be read-only only because it was lent to another channel, and pickle would remember that.
    """
    return (array if array.flags.writeable else array.copy(order="K")).__reduce_ex__(5)
