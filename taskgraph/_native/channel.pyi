"""The ends of channels, the processors between them, and the epoch that fires them.

Rule 1: a channel carries one value an epoch; `(epoch, key)` names it, so a duplicate cannot be taken for another.
Rule 2: the processors of one task fire one at a time, in the order composed.
Rule 3: `get` and `put` work only inside the `compute` of the channel's own processor.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, final

from numpy.typing import NDArray
from typing_extensions import disjoint_base

from taskgraph.ids import ChannelId, Rank, Tag, TaskId

_Value = TypeVar("_Value")

class _Copies(Protocol):
    def copy(self, value: object) -> object: ...

@disjoint_base
class Port:
    """The way to one other rank. What it is made of is the transport's business."""

    def send(self, channel: int, epoch: int, value: object, copy: bool) -> int:
        """Take a value to the rank at the other end: an exact, plain ndarray, or any other object.

        Parameters
        ----------
        channel
            Key of the channel, 64 bits.
        copy
            True: the memory of an array must stay the sender's to write.
        """

@disjoint_base
class Pump:
    """Brings in what other ranks sent."""

    def pump(self) -> int:
        """Wait until something came in and was delivered; return how many messages that were.

        Raises
        ------
        EpochAborted
            The epoch is over for this rank.
        """

    def poll(self) -> int:
        """Deliver what is there, without waiting. Raises as `pump` does."""

    def drain(self) -> int:
        """Deliver all that is there, without waiting; return how many messages that were."""

    def send_control(self, peer: Rank, topic: int, epoch: int, data: bytes) -> int:
        """Send bytes to the worker on another rank, in order with everything else sent there."""

    def send_copy(self, peer: Rank, frames: list[Any]) -> int:
        """Send a copy of a snapshot: buffers of bytes, which must not change while it is wanted."""

@final
class InboundChannel:
    """The receiving end of a channel, as a processor sees it.

    Parameters
    ----------
    key
        What names the channel on the wire.
    """

    @property
    def id(self) -> ChannelId:
        """The channel: source, destination, tag."""

    @property
    def task(self) -> TaskId:
        """The task at the other end."""

    @property
    def tag(self) -> Tag:
        """The user's name of the channel."""

    @property
    def key(self) -> int:
        """What names the channel on the wire."""

    def __init__(self, epoch: Epoch, id: ChannelId, key: int) -> None: ...
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
            Called outside the `compute` of the channel's processor.
        """

@final
class OutboundChannel:
    """The sending end of a channel, as a processor sees it.

    Parameters
    ----------
    key
        What names the channel on the wire.
    """

    @property
    def id(self) -> ChannelId:
        """The channel: source, destination, tag."""

    @property
    def task(self) -> TaskId:
        """The task at the other end."""

    @property
    def tag(self) -> Tag:
        """The user's name of the channel."""

    @property
    def key(self) -> int:
        """What names the channel on the wire."""

    def __init__(self, epoch: Epoch, id: ChannelId, key: int) -> None: ...
    def put(self, value: object, copy: bool | None = None) -> None:
        """Send this epoch's one value to the task at the other end.

        Parameters
        ----------
        value
            Any array; dtype, shape and bytes arrive as they are. What is small, what goes to a task of the same rank
            and memory of a protected array is copied; any other large array is borrowed: it is read-only until the
            epoch ends (views made before are yours to mind). Every other object keeps its type through pickle 5.
        copy
            True: never borrow.

        Raises
        ------
        GraphError
            A second value in one epoch, which ends the job even if it is caught; a call outside the `compute` of the
            channel's processor; a memoryview, or an object that cannot be pickled.
        """

@final
class Processor:
    """One firing an epoch: user compute with its in and out channels."""

    compute: Callable[[Any, Any], object]
    """Called as ``compute(ins, outs)``."""

    @property
    def task(self) -> TaskId:
        """The task that composed it."""

    @property
    def index(self) -> int:
        """Its place in the order composed."""

    @property
    def ins(self) -> tuple[InboundChannel, ...]:
        """Its in channels."""

    @property
    def outs(self) -> tuple[OutboundChannel, ...]:
        """Its out channels; none: it is a sync point."""

    def __init__(
        self,
        task: TaskId,
        index: int,
        compute: Callable[[Any, Any], object],
        ins: tuple[InboundChannel, ...],
        outs: tuple[OutboundChannel, ...],
    ) -> None: ...

@final
class Epoch:
    """Where a rank is: the number of the epoch, its processors, and the values that have come. Used by one thread.

    Parameters
    ----------
    codec
        Copies objects between tasks of this rank.
    transport
        Brings values of other ranks; None in a job of one rank.
    """

    @property
    def number(self) -> int:
        """The epoch that was begun last, -1 before the first."""

    @property
    def entered(self) -> int:
        """The epoch that was entered last, -1 before the first."""

    @property
    def caller(self) -> TaskId | None:
        """The task whose code runs outside of processors; None: of none, it has returned."""

    @caller.setter
    def caller(self, task: TaskId | None) -> None: ...
    @property
    def running(self) -> Processor | None:
        """The processor that computes, or has just raised."""

    def __init__(self, codec: _Copies, transport: Pump | None = None) -> None: ...
    def mark_in(self, words: memoryview) -> None:
        """Say in `words`, from now on, where this rank is (`taskgraph.backends.words`): the epoch, task, and time.

        Parameters
        ----------
        words
            Three or more, writable, of signed 64-bit integers. Others read them, also when this process is dead.
        """

    def enter(self, number: int) -> None:
        """Take that this rank is in epoch `number` from now on, whose graph is not composed yet."""

    def attach(self, transport: Pump) -> None:
        """Set the transport, once."""

    def connect(self, tasks: list[list[Processor]], way: Callable[[TaskId], Port | None]) -> None:
        """Take the processors of every task of this rank, in the order composed, from the next epoch on.

        Channels of the graph before that are not in this one refuse work from now on.

        Parameters
        ----------
        way
            Makes ready for what comes from a task, and returns the `Port` to it; None: the task is on this rank. It is
            asked anew each time, since tasks move: ends know channels, not ranks.
        """

    def begin(self, number: int) -> None:
        """Open epoch `number`: no processor has fired, and only early values have come."""

    def accept(self, key: int, epoch: int, value: object) -> None:
        """Deliver a value that came by a transport written in Python; one that has come already is dropped."""

    def awaited(self) -> list[ChannelId]:
        """Return the in channels that keep processors from firing, each task's next one only."""

    def run(self) -> None:
        """Fire every processor of this rank.

        Raises
        ------
        GraphError
            A processor returned without a value in each of its out channels, or no value can come any more.
        EpochAborted
            From the transport, while waiting.
        """

    def close(self) -> None:
        """Let go of every value and processor; channels refuse work from now on. Any epoch may begin next."""

def own_copy(value: _Value, codec: _Copies, vacant: NDArray[Any] | None = None) -> _Value:
    """Copy a value for a task of the same process, into `vacant` where it fits; nothing of it is shared afterwards."""
