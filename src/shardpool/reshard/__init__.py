"""Online moves of rows between shards, on top of the shell. Async, with a thin wrapper for threads."""

from ..errors import MoveRefused, MoveStopped
from .mover import Mover
from .moves import AsyncMoves
from .options import MoveOptions, Progress
from .plan import move_of_buckets, move_of_table
from .status import MoveStatus
from .sync import Moves

__all__ = [
    "AsyncMoves",
    "MoveOptions",
    "MoveRefused",
    "MoveStatus",
    "MoveStopped",
    "Mover",
    "Moves",
    "Progress",
    "move_of_buckets",
    "move_of_table",
]
