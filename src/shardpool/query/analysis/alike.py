"""What two shards tell otherwise of their tables and functions, and which of it matters to a statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...topology import Topology
from ..text.statement import kind, strings, walk
from .catalog import Catalog


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two shards tell otherwise, and how `subject` calls things of its kind."""

    subject: str
    name: str
    told: str

    def __str__(self) -> str:
        return f"{self.subject} {self.name.removeprefix('public.')}{self.told}".strip()


@dataclass(frozen=True, slots=True)
class Touched:
    """What a statement names: tables by their qualified names; functions, operators and types by their bare ones.

    `has_others`: some that are not PostgreSQL's own are among the functions and operators, or in a view; they may use
    any that there are.
    """

    tables: frozenset[str]
    names: frozenset[str]
    types: frozenset[str]
    has_others: bool

    def holds(self, difference: Difference) -> bool:
        """Whether a difference matters to the statement."""
        match difference.subject:
            case "table":
                return difference.name in self.tables
            case "function" | "operator":
                return self.has_others or difference.name in self.names
            case "values of the enum":
                return difference.name in self.types or difference.name.rsplit(".", 1)[-1] in self.names
        return True


def touched(tree: Any, catalog: Catalog) -> Touched:
    """What a statement touches, rather too much: the name of a WITH query counts as that of a table."""
    tables: set[str] = set()
    names: set[str] = set()
    has_others = False
    for part in walk(tree):
        match kind(part):
            case "RangeVar":
                tables.add(catalog.resolve(part.schemaname, part.relname) or "")
            case "FuncCall":
                names.add(strings(part.funcname)[-1])
                function = catalog.function(strings(part.funcname))
                has_others |= function is None or not function.built_in
            case "A_Expr" if strings(part.name):
                names.add(strings(part.name)[-1])
                has_others |= strings(part.name)[:-1] != ["pg_catalog"] and strings(part.name)[-1] in catalog.operators
            case "TypeName" if strings(part.names):
                names.add(strings(part.names)[-1])
    known = [catalog.tables[name] for name in tables if name in catalog.tables]
    has_others |= any(table.kind not in "rp" for table in known)
    types = frozenset(column.type.removesuffix("[]") for table in known for column in table.columns)
    return Touched(frozenset(tables), frozenset(names), types, has_others)


# What is compared as it is told, by what it is called.
_COMPARED = {"database": "", "collations": "version of collation", "enums": "values of the enum"}


def differences(topology: Topology, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    """What two shards tell otherwise. A single table counts only where it lives, so not at all."""
    for name in topology.placements:
        if name not in topology.single_tables:
            ours, theirs = ((facts_of_one["tables"] or {}).get(name) for facts_of_one in (one, other))
            if ours != theirs:
                yield Difference("table", name, _table_difference(ours, theirs))
    for key, subject in _COMPARED.items():
        for name in {**(one[key] or {}), **(other[key] or {})}:
            ours, theirs = (one[key] or {}).get(name), (other[key] or {}).get(name)
            if ours != theirs:
                yield Difference(subject, name, f" ({ours} and {theirs})")
    for key in ("functions", "operators"):
        ours, theirs = ({str(facts): facts[0] for facts in facts_of_one[key] or []} for facts_of_one in (one, other))
        for name in sorted({{**ours, **theirs}[facts] for facts in ours.keys() ^ theirs.keys()}):
            yield Difference(key.removesuffix("s"), name, "()" if key == "functions" else "")


def _table_difference(ours: Any, theirs: Any) -> str:
    if ours is None or theirs is None:
        return " (it is not on both)"
    columns, others = ours["columns"] or [], theirs["columns"] or []
    names = [str(one[0]) for one in columns if one not in others] + [
        str(one[0]) for one in others if one not in columns
    ]
    if not names:
        return " (its order of columns, kind, indexes or triggers)"
    return f" (column {', '.join(dict.fromkeys(names))})"
