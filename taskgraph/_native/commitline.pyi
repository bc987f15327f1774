from typing import Self, TypeAlias, final

from typing_extensions import Buffer

_Record: TypeAlias = tuple[int, int, int, int, int, int, int]

LINE: int

@final
class CommitLine:
    def __new__(cls, memory: Buffer, index: int) -> Self: ...
    def heard(self, generation: int, safe: int, delivered: int, end_at: int, end: int) -> None: ...
    def mark_over(self, generation: int, status: int) -> None: ...

def read(memory: Buffer) -> list[_Record]: ...
