"""What the main thread of a rank is about."""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """How far a main thread has got in its epoch, or in its job."""

    AWAY = auto()
    """Between generations."""
    RESTORING = auto()
    RUNNING = auto()
    """In an epoch."""
    SAVING = auto()
    """Copying state into slots."""
    WAITING = auto()
    """For a verdict, or for a free slot."""
    ENDING = auto()
    """The last epoch is finished; what it left behind becomes safe."""
    OVER = auto()
    """Known to be over; not everybody may know."""
    LEFT = auto()
