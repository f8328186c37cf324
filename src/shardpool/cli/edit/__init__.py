"""`topology diff | plan | apply | set | rename | pin | unpin | split | shard … | history`: edits of the topology."""

from __future__ import annotations

from .files import apply, diff, plan
from .history import history
from .shard import shard_group
from .values import pin, rename, set_value, split, unpin

COMMANDS = (diff, plan, apply, set_value, rename, pin, unpin, split, shard_group, history)

__all__ = ["COMMANDS"]
