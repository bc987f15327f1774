"""Files that only this user may read."""

from __future__ import annotations

import os


def open_private(path: str, flags: int) -> int:
    """Open a file as the ``opener`` of `open`; where it is made, only this user may read it."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
