from collections.abc import Sequence
from typing import Any, Self, final

from numpy.typing import NDArray
from typing_extensions import Buffer

@final
class Blocks:
    def __new__(
        cls,
        memory: Buffer,
        block: int,
        rooms: Sequence[int],
        starts: Sequence[int],
        hashes_at: int,
        lengths: Sequence[int] | None = None,
        writable: bool = True,
    ) -> Self: ...
    @property
    def block(self) -> int: ...
    def write(self, parts: Sequence[NDArray[Any] | Buffer], base: Blocks | None, version: int) -> None: ...
    def apply(
        self,
        lengths: Sequence[int],
        runs: Sequence[tuple[int, int, int]],
        frames: Sequence[NDArray[Any] | Buffer],
        base: Blocks | None,
        version: int,
    ) -> bool: ...
    def changes(self) -> list[tuple[int, int, int]]: ...
    def everything(self) -> list[tuple[int, int, int]]: ...
    def place(self, run: tuple[int, int, int]) -> tuple[int, int]: ...
    def checksum(self, form: int) -> int: ...
    def read(self, form: int, targets: Sequence[NDArray[Any] | Buffer] | None = None) -> int: ...
