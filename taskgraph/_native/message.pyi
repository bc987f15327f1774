"""One value on its way: the header that leads it, and the memory that it arrives in."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

class _DtypeCodec(Protocol):
    def dump_dtype(self, dtype: np.dtype[Any]) -> bytes: ...

__pyx_capi__: dict[str, object]
"""What other compiled modules call."""

eager_bytes: int
"""A message up to this size, header and payload together, travels whole; a longer one as header, then payload."""

def pool_state() -> tuple[int, int, int]:
    """Return bytes in arrays, bytes idle in the pool, and the most ever in arrays at once."""

def borrows(array: object, codec: _DtypeCodec) -> bool:
    """Tell whether an array is put without a copy: a plain one, in one piece, too large for an eager message."""

def give_back(arrays: list[NDArray[Any]]) -> None:
    """Make arrays writable again."""
