from typing import Self, TypeAlias, final

from typing_extensions import Buffer

_Fields: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int]

SIZE: int

@final
class SlotHead:
    def __new__(cls, memory: Buffer, block: int, parts: int, history_room: int) -> Self: ...
    def write(
        self,
        cycle: int,
        run: bytes,
        task: int,
        boundary: int,
        generation: int,
        note: int,
        form: int,
        checksum: int,
        pairs: int,
        rest: bytes,
    ) -> None: ...

def fields(data: bytes, run: bytes) -> _Fields | None: ...
def is_intact(data: bytes) -> bool: ...
