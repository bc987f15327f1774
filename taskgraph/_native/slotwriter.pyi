from collections.abc import Iterable, Sequence
from typing import Any, Final, Self, final

from numpy.typing import NDArray

from taskgraph._native.blocks import Blocks
from taskgraph._native.slothead import SlotHead
from taskgraph._native.slots import SlotTable

MAX_FRAMES: Final[int]

@final
class OwnSlot: ...

@final
class SlotWriter:
    version: int
    def __new__(cls, table: SlotTable, task: int, form: int, room: int) -> Self: ...
    @property
    def task(self) -> int: ...
    @property
    def generation(self) -> int: ...
    def repeat(
        self,
        generation: int,
        arrays: Sequence[NDArray[Any]] | None,
        rest: bytes,
        pairs: int,
        slots: Iterable[tuple[int, Blocks, SlotHead]],
        newest: int,
        cycle: int,
        boundary: int,
        checksum: int,
    ) -> None: ...
    def forget(self) -> None: ...
    def written(self) -> list[tuple[int, int, int, int, int]]: ...
    def change(self, lead: bytes) -> list[bytes | memoryview]: ...
    def write(self, boundary: int, generation: int, note: int) -> bool: ...
