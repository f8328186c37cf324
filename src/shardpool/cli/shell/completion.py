"""What Tab offers: keywords, tables, shards, and the commands of the shell. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...topology import Topology

_KEYWORDS = (
    "all analyze and as asc between by case cast conflict count cross current_date current_timestamp delete desc "
    "distinct do else end except exists explain false from full group having ilike in inner insert intersect into is "
    "join lateral left like limit not nothing null nulls offset on or order outer over partition returning right "
    "select set show then true truncate union update using values when where window with"
).split()
_WORD = re.compile(r"\\?[\w.$?]*$")


def candidates(topology: Topology, before: str) -> tuple[str, list[str]]:
    """The word before the cursor, and what may stand instead of it."""
    from .commands import COMMANDS

    match = _WORD.search(before)
    word = match.group() if match else ""
    line = before.rpartition("\n")[2].lstrip()
    names: Iterable[str]
    if word.startswith("\\"):
        names = COMMANDS
    elif line.startswith("\\shard "):
        names = topology.shards
    elif line.startswith("\\d "):
        names = _tables(topology)
    else:
        keywords = [keyword.upper() for keyword in _KEYWORDS] if word.isupper() else _KEYWORDS
        names = [*_tables(topology), *keywords] if word else []
    return word, [name for name in names if name.lower().startswith(word.lower())]


def _tables(topology: Topology) -> list[str]:
    return [name.removeprefix("public.") for name in topology.placements]
