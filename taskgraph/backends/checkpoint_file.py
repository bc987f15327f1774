"""The file of one task in a checkpoint.

::

    0     magic (8 bytes), length of the head (8)
    16    head: JSON that says whose state this is, and what parts it has
    ...   the parts, one after the other: arrays as their bytes, byte strings as they are
    -16   the checksum of all before (XXH3, 128 bits)

Nothing is ever unpickled, and no dtype is made of what a file says: its description is compared with that of the
program's own array. Readers believe no number that does not fit the size of the file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import xxhash

from taskgraph.errors import CheckpointDamaged
from taskgraph.ids import Epoch, Generation, TaskId

_MAGIC = b"tgckpt1\n"
_LEAD = struct.Struct("<8sQ")
_CHECK = 16
_CHUNK = 4 << 20
_MOST_HEAD = 64 << 20

Memory: TypeAlias = "memoryview | bytes | bytearray"
"""Of plain bytes."""


class Stream(Protocol):
    """An open file."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to so many bytes; none at the end."""

    def write(self, data: Any, /) -> Any:
        """Append."""


class Part(NamedTuple):
    """Something that a task protects.

    Attributes
    ----------
    dtype, shape, order
        Of an array: what `numpy.lib.format.dtype_to_descr` says, as JSON has it. None: a byte string.
    """

    name: str
    dtype: Any = None
    shape: tuple[int, ...] | None = None
    order: str | None = None

    def describe(self) -> str:
        """Return it for a person."""
        return f"{self.name}: {f'{self.dtype} {self.shape}' if self.shape is not None else 'bytes'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Whose state a file holds.

    Attributes
    ----------
    delivered
        How far ``committed`` had been called.
    parts, lengths
        What is in it, and how many bytes of each.
    """

    job: str
    num_tasks: int
    task: TaskId
    boundary: Epoch
    run: str
    generation: Generation
    delivered: Epoch
    parts: tuple[Part, ...]
    lengths: tuple[int, ...]

    def encode(self) -> bytes:
        """Return the file up to the first part."""
        body = json.dumps(asdict(self), separators=(",", ":")).encode()
        return _LEAD.pack(_MAGIC, len(body)) + body


def describe(state: Mapping[str, Any]) -> tuple[Part, ...]:
    """Describe protected state, in the order in which a snapshot has its parts: arrays, then the rest."""
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    return (
        *(_describe(name, array) for name, array in arrays.items()),
        *(Part(name) for name in state if name not in arrays),
    )


def _describe(name: str, array: np.ndarray[Any, Any]) -> Part:
    dtype = json.loads(json.dumps(np.lib.format.dtype_to_descr(array.dtype)))  # lists where JSON has no tuples
    return Part(name, dtype, array.shape, "C" if array.flags.c_contiguous else "F")


def memory_of(array: np.ndarray[Any, Any]) -> memoryview:
    """Return the memory of a contiguous array as plain bytes."""
    return array.ravel(order="K").view(np.uint8).data


def write(stream: Stream, head: Head, parts: Sequence[Memory], is_good: Callable[[], bool]) -> bool:
    """Write a whole file.

    Parameters
    ----------
    is_good
        Asked now and then, and in the end: whether the parts were left alone. If not, no reader takes the file.
    """
    check = xxhash.xxh3_128()
    for piece in (head.encode(), *parts):
        memory = memoryview(piece)
        for at in range(0, len(memory), _CHUNK):
            if not is_good():
                return False
            chunk = memory[at : at + _CHUNK]
            check.update(chunk)
            stream.write(chunk)
    good = is_good()
    stream.write(check.digest() if good else bytes(_CHECK))
    return good


def size_of(head: Head) -> int:
    """Return the bytes of a file with this head."""
    return len(head.encode()) + sum(head.lengths) + _CHECK


class Reader:
    """Reads a file once, from its beginning to its end.

    Parameters
    ----------
    stream
        At its beginning.
    size
        Bytes of the file.

    Raises
    ------
    CheckpointDamaged
        What comes first is no head that fits the size.
    """

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._check = xxhash.xxh3_128()
        self.head = self._head(size)

    def _head(self, size: int) -> Head:
        lead = self._take(_LEAD.size)
        magic, length = _LEAD.unpack(lead)
        if magic != _MAGIC:
            raise CheckpointDamaged("it is no file of a checkpoint")
        if length > min(size, _MOST_HEAD):
            raise CheckpointDamaged(f"its head claims {length} bytes")
        body = self._take(length)
        try:
            head = _decode(json.loads(body))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointDamaged(f"its head cannot be read: {error!r}") from error
        if _LEAD.size + length + sum(head.lengths) + _CHECK != size:
            raise CheckpointDamaged(f"it has {size} bytes, which is not what its head says")
        return head

    def fill(self, targets: Sequence[Memory]) -> None:
        """Copy the parts into memory of their lengths. Raises CheckpointDamaged: what was filled is then of no use."""
        for target, length in zip(targets, self.head.lengths, strict=True):
            into = memoryview(target)
            at = 0
            for chunk in self._chunks(length):
                into[at : at + len(chunk)] = chunk
                at += len(chunk)
        self._finish()

    def verify(self) -> None:
        """Read the parts and keep nothing. Raises CheckpointDamaged."""
        for _ in self._chunks(sum(self.head.lengths)):
            pass
        self._finish()

    def _finish(self) -> None:
        expected = self._check.digest()
        if self._take(_CHECK) != expected or self._stream.read(1):
            raise CheckpointDamaged("its content does not match its checksum")

    def _chunks(self, length: int) -> Iterator[bytes]:
        while length > 0:
            chunk = self._take(min(length, _CHUNK))
            length -= len(chunk)
            yield chunk

    def _take(self, length: int) -> bytes:
        pieces = []
        missing = length
        while missing:
            piece = self._stream.read(missing)
            if not piece:
                raise CheckpointDamaged("it ends too early")
            pieces.append(piece)
            missing -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._check.update(data)
        return data


def _decode(fields: dict[str, Any]) -> Head:
    numbers = {name: fields[name] for name in ("num_tasks", "task", "boundary", "generation", "delivered")}
    lengths = tuple(fields["lengths"])
    if any(type(number) is not int for number in (*numbers.values(), *lengths)) or min(lengths, default=0) < 0:
        raise ValueError("a number in it is none")
    parts = tuple(_part(*part) for part in fields["parts"])
    if len(parts) != len(lengths):
        raise ValueError(f"{len(lengths)} lengths of {len(parts)} parts")
    return Head(job=str(fields["job"]), run=str(fields["run"]), parts=parts, lengths=lengths, **numbers)


def _part(name: str, dtype: Any, shape: list[int] | None, order: str | None) -> Part:
    return Part(str(name), dtype, None if shape is None else tuple(map(int, shape)), order)
