from collections.abc import Callable, Sized
from typing import Any, Final, Protocol, final

from taskgraph._native.commitline import CommitLine
from taskgraph._native.slots import SlotTable
from taskgraph._native.slotwriter import SlotWriter
from taskgraph._native.steady import Steady

COMMITTED: Final[int]
LEFT: Final[int]
NOT_DONE: Final[int]

class _Transport(Protocol):
    def pump(self) -> int: ...
    def send_control(self, peer: int, topic: int, epoch: int, data: bytes) -> object: ...
    def send_copy(self, peer: int, frames: list[Any]) -> object: ...

@final
class Committer:
    def __init__(
        self, transport: _Transport, table: SlotTable, line: CommitLine, queue: Sized, note_bits: int
    ) -> None: ...
    def begin(
        self,
        steady: Steady,
        generation: int,
        writers: list[SlotWriter],
        copy: Callable[[int], None] | None,
        keepers: dict[int, SlotWriter],
    ) -> None: ...
    def end(self) -> None: ...
    def commit(self, idle: bool) -> int: ...
    def receive_copy(self, source: int, frames: list[Any]) -> bool: ...
    def receive(self, source: int, topic: int, data: bytes) -> bool: ...
