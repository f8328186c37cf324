"""SQL text → facts about it. The only module that knows the SQL parser, which is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg

Kind = Literal["read", "write", "other"]

_WRITES = {"InsertStmt": "INSERT", "UpdateStmt": "UPDATE", "DeleteStmt": "DELETE", "MergeStmt": "MERGE"}


_SPOKEN = {"CreateStmt": "CREATE TABLE", "IndexStmt": "CREATE INDEX", "VariableSetStmt": "SET"}


@dataclass(frozen=True, slots=True)
class Statement:
    """What one statement does, by its text alone.

    `verb` is what a person would call it. `reads` and `writes` are names as written, with their schema if it was given;
    names of common table expressions are not among them. `locks` is True under FOR UPDATE and its like.
    """

    kind: Kind
    verb: str
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    locks: bool = False


@dataclass(slots=True)
class _Facts:
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    locks: bool = False
    into: bool = False


def parse(sql: str) -> list[Statement]:
    """The statements of a text with `$n` placeholders; raises `psycopg.errors.SyntaxError` as PostgreSQL would."""
    import postgast

    try:
        tree = postgast.parse(sql)
    except postgast.PgQueryError as error:
        raise psycopg.errors.SyntaxError(str(error)) from error
    return [_statement(raw.stmt) for raw in tree.stmts]


def _statement(node: Any) -> Statement:
    kind = node.WhichOneof("node")
    inner = getattr(node, kind)
    name = type(inner).__name__
    facts = _Facts()
    if name == "SelectStmt":
        _visit(inner, frozenset(), facts)
        if facts.into:
            return Statement("other", "SELECT INTO")
        return _made("write" if facts.writes else "read", "SELECT", facts)
    if name in _WRITES:
        _visit(inner, frozenset(), facts)
        return _made("write", _WRITES[name], facts)
    return Statement("other", _spoken(name))


def _made(kind: Kind, verb: str, facts: _Facts) -> Statement:
    return Statement(
        kind, verb, frozenset(facts.reads), frozenset(facts.writes), frozenset(facts.functions), facts.locks
    )


def _spoken(name: str) -> str:
    """`CreateTableAsStmt` → `CREATE TABLE AS`."""
    words = "".join(" " + letter if letter.isupper() else letter for letter in name.removesuffix("Stmt"))
    return _SPOKEN.get(name, words.strip().upper())


def _visit(node: Any, names: frozenset[str], facts: _Facts) -> None:
    """Collect the facts below a node; `names` are the common table expressions that can be seen from it."""
    kind = type(node).__name__
    if kind == "RangeVar":
        _see_relation(node, names, facts)
        return
    if kind == "FuncCall":
        facts.functions.add(".".join(part.string.sval for part in node.funcname))
    elif kind == "LockingClause":
        facts.locks = True
    elif kind == "IntoClause":
        facts.into = True
    if kind in _WRITES:
        facts.writes.add(_name(node.relation))
    if "with_clause" in node.DESCRIPTOR.fields_by_name and node.HasField("with_clause"):
        names = _visit_with(node.with_clause, names, facts)
    for field_name, child in _children(node):
        # The target of a write is a table even where a common table expression has its name.
        if field_name != "with_clause" and not (field_name == "relation" and kind in _WRITES):
            _visit(child, names, facts)


def _visit_with(clause: Any, names: frozenset[str], facts: _Facts) -> frozenset[str]:
    """Each expression sees those before it, under RECURSIVE all; gives the names that the statement sees."""
    own = [item.common_table_expr for item in clause.ctes]
    everyone = names | {expression.ctename for expression in own}
    for expression in own:
        _visit(expression.ctequery, everyone if clause.recursive else names, facts)
        names = names | {expression.ctename}
    return names


def _see_relation(node: Any, names: frozenset[str], facts: _Facts) -> None:
    if node.schemaname or node.relname not in names:
        facts.reads.add(_name(node))


def _name(relation: Any) -> str:
    return f"{relation.schemaname}.{relation.relname}" if relation.schemaname else str(relation.relname)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    """The messages right below a node, with the field that each stands in."""
    for descriptor, value in node.ListFields():
        if descriptor.message_type is None:
            continue
        for child in value if _is_repeated(value) else (value,):
            yield descriptor.name, child


def _is_repeated(value: Any) -> bool:
    return not hasattr(value, "DESCRIPTOR")
