"""Literals that name a moment (`'now'`), and where they are no more than texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..text.statement import assigned, inner, is_star, kind, strings, walk
from ..text.tree import copy
from .catalog import Catalog, Table

NAMED_TIMES = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE | re.ASCII)
_WORDS = re.compile(r"[^\W\d_]+")
# Besides the name of the moment there can be that of a time zone. Arrays, ranges and records have several moments.
_OTHER_WORDS_MAX = 1
_READ_OVER = frozenset("at on am pm ad bc t z dst sun mon tue wed thu fri sat".split())
_SEVERAL = re.compile(r"[{\[(/]")
_RENAMING = frozenset(("CommonTableExpr", "RangeSubselect", "RangeFunction", "RangeTableFunc"))
_COMPARING = frozenset("= <> < > <= >= ~ ~* !~ !~* ~~ ~~* !~~ !~~* BETWEEN".split())
_TEXTS = frozenset(("text", "character varying", "character", "name", "json", "jsonb", "xml", "citext"))


def may_be_a_moment(text: str) -> bool:
    """Whether a server that reads the text as a time may find its own moment there."""
    if not NAMED_TIMES.search(text):
        return False
    words = [word.lower() for word in _WORDS.findall(text)]
    others = [word for word in words if word[:3] not in _READ_OVER and not NAMED_TIMES.fullmatch(word)]
    return len(others) <= _OTHER_WORDS_MAX or _SEVERAL.search(text) is not None


def without_texts(tree: Any, catalog: Catalog) -> Any:
    """The tree with other literals for those that are stored in columns of texts, or compared with such."""
    tree = copy(tree)
    for node in _of_texts(tree, catalog):
        if kind(inner(node)) == "A_Const" and inner(node).WhichOneof("val") == "sval":
            inner(node).sval.sval = "text"
    return tree


def _of_texts(tree: Any, catalog: Catalog) -> Iterator[Any]:
    tables = _tables(tree, catalog)
    # What has other names there than in its table may be of another type.
    renames = any(kind(part) in _RENAMING or (kind(part) == "Alias" and part.colnames) for part in walk(tree))
    for part in walk(tree):
        match kind(part):
            case "UpdateStmt" | "InsertStmt" | "MergeWhenClause" | "OnConflictClause":
                yield from _stored(part, tables)
            case "A_Expr" if not renames and strings(part.name)[-1] in _COMPARING:
                sides = (part.lexpr, part.rexpr)
                if any(_is_column_of_texts(inner(side), tables) for side in sides):
                    for side in sides:
                        yield from inner(side).items if kind(inner(side)) == "List" else [side]


def _tables(tree: Any, catalog: Catalog) -> list[Table]:
    """The tables that have a name of the statement; any of other schemas are among them."""
    names = {part.relname for part in walk(tree) if kind(part) == "RangeVar"}
    return [table for table in catalog.tables.values() if table.name.split(".", 1)[1] in names]


def _stored(clause: Any, tables: list[Table]) -> Iterator[Any]:
    """What is stored in columns of texts as it is."""
    if kind(clause) == "InsertStmt":
        tables = [table for table in tables if table.name.split(".", 1)[1] == clause.relation.relname]
    pairs = _inserted(clause, tables) if kind(clause) == "InsertStmt" else assigned(clause.target_list)
    return (value for name, value in pairs if _are_texts(name, tables))


def _inserted(tree: Any, tables: list[Table]) -> Iterator[tuple[str, Any]]:
    select = inner(tree.select_stmt) if tree.HasField("select_stmt") else None
    if select is None or len(tables) != 1:
        return
    names = [column.res_target.name for column in tree.cols] or [column.name for column in tables[0].columns]
    for row in select.values_lists:
        yield from zip(names, row.list.items, strict=False)
    for name, target in zip(names, select.target_list, strict=False):
        if is_star(target.res_target):
            return
        yield name, target.res_target.val


def _is_column_of_texts(value: Any, tables: list[Table]) -> bool:
    names = strings(value.fields) if kind(value) == "ColumnRef" else []
    return bool(names) and len(names) == len(value.fields) and _are_texts(names[-1], tables)


def _are_texts(name: str, tables: list[Table]) -> bool:
    """Whether all columns of that name are texts."""
    types = {column.type.split("(")[0] for table in tables for column in table.columns if column.name == name}
    return bool(types) and types <= _TEXTS
