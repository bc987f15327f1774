from collections.abc import Sequence
from typing import Any, final

from numpy.typing import NDArray
from typing_extensions import Buffer

@final
class Loan:
    def __init__(self, things: Sequence[NDArray[Any] | Buffer], writable: bool = False) -> None: ...
