"""The ends of a channel, as a processor sees them. The compiled classes behind them are in `taskgraph._native`."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Protocol

from taskgraph.errors import UsageError
from taskgraph.ids import ChannelId, Tag, TaskId


class InboundChannel(Protocol):
    """The receiving end: the one value that the other task puts each epoch."""

    @property
    def id(self) -> ChannelId:
        """The channel: source, destination, tag."""

    @property
    def task(self) -> TaskId:
        """The task at the other end."""

    @property
    def tag(self) -> Tag:
        """The name of the channel."""

    def get(self) -> Any:
        """Return this epoch's value.

        Returns
        -------
        object
            What the other task put: same dtype, shape and bytes. An array is the receiver's own: writable, aliasing
            nothing, its to keep. A second call gives the same object.

        Raises
        ------
        GraphError
            Called outside the `compute` of the processor that the channel belongs to.
        """


class OutboundChannel(Protocol):
    """The sending end: put exactly one value each epoch."""

    @property
    def id(self) -> ChannelId:
        """The channel: source, destination, tag."""

    @property
    def task(self) -> TaskId:
        """The task at the other end."""

    @property
    def tag(self) -> Tag:
        """The name of the channel."""

    def put(self, value: object, copy: bool | None = None) -> None:
        """Send this epoch's one value to the task at the other end.

        Parameters
        ----------
        value
            Any array; it arrives with its dtype, shape and bytes. It is copied if it is small, goes to a task of the
            same rank, or lies in the memory of a protected array. Any other large array is borrowed: read-only until
            the epoch ends. Views made before stay writable; do not write through them. NumPy scalars, ndarray
            subclasses and all other objects are pickled (protocol 5), keep their type, and are copied.
        copy
            True: never borrow.

        Raises
        ------
        GraphError
            A second value in one epoch, which ends the job even if it is caught; a call outside the `compute` of the
            processor that the channel belongs to; a memoryview, or an object that cannot be pickled.
        """


def channel_key(channel: ChannelId) -> int:
    """Return the 64 bits that name a channel on the wire: the same on every rank, whatever it has declared so far."""
    source, destination, tag = channel
    text = f"{source}>{destination}:{type(tag).__name__}:{tag}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def checked_tag(tag: object) -> Tag:
    """Return a tag as a plain str or int, or say what is wrong with it."""
    if isinstance(tag, bool) or not isinstance(tag, str | int):
        raise UsageError(f"tag={tag!r} is a {type(tag).__name__}: a channel's tag is a str or an int")
    # Subclasses, such as numpy.str_ and enumerations, are equal to the plain value, so they must name the same channel.
    if isinstance(tag, str):
        if any("\ud800" <= letter <= "\udfff" for letter in tag):
            raise UsageError(f"tag={tag!r} has half of a surrogate pair, which no encoding has")
        return str.__str__(tag)
    if tag.bit_length() > 63:
        raise UsageError(f"tag: an int of {tag.bit_length()} bits is too long, 63 is the most")
    return int.__int__(tag)
