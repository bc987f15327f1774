from collections.abc import Sequence
from typing import TypeAlias

_Pairs: TypeAlias = Sequence[tuple[int, int]]
_Run: TypeAlias = tuple[int, int, int]
_Base: TypeAlias = tuple[int, int, int]

__pyx_capi__: dict[str, object]
"""What other compiled modules call."""

def encode(
    task: int,
    boundary: int,
    generation: int,
    note: int,
    history: _Pairs,
    form: int,
    checksum: int,
    block: int,
    lengths: Sequence[int],
    base: _Base | None,
    runs: Sequence[_Run],
    nbytes: int,
) -> bytes: ...
def decode(
    header: bytes,
) -> tuple[
    int,
    int,
    int,
    int,
    tuple[tuple[int, int], ...],
    int,
    int,
    int,
    tuple[int, ...],
    _Base | None,
    tuple[_Run, ...],
    int,
]: ...
