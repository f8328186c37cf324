"""The time of the transaction, which one shard tells all that write."""

from __future__ import annotations

from typing import Any

from .names import NAMELESS, output_name
from .statement import copy, is_star, kind, walk
from .template import Template, template, time_type


def timed(tree: Any) -> Template | None:
    """The statement with places for the time of the transaction, which all shards are told; None without any."""
    if not any(time_type(found) for found in walk(tree)):
        return None
    found = copy(tree)
    targets = [target for found in walk(found) if kind(found) == "SelectStmt" for target in found.target_list]
    for target in (*targets, *found.returning_clause.exprs):
        # A column that is named after what is replaced keeps its name.
        if not target.res_target.name and not is_star(target.res_target):
            name = output_name(target.res_target)
            target.res_target.name = "" if name == NAMELESS else name
    return template(found)
