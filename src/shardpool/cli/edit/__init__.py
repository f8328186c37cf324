"""`topology diff | plan | apply | set | rename | pin | unpin | split | shard … | enforce | history | pull | status`."""

from __future__ import annotations

from .enforce import enforce
from .epochs import pull, status
from .files import apply, diff, plan
from .history import history
from .shard import shard_group
from .values import pin, rename, set_value, split, unpin

COMMANDS = (diff, plan, apply, set_value, rename, pin, unpin, split, shard_group, enforce, history, pull, status)

__all__ = ["COMMANDS"]
