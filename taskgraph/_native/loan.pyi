from collections.abc import Sequence
from typing import Any, Self, final

from numpy.typing import NDArray
from typing_extensions import Buffer

@final
class Loan:
    def __new__(cls, things: Sequence[NDArray[Any] | Buffer], writable: bool = False) -> Self: ...
