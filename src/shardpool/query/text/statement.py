"""SQL text ↔ syntax trees, which are PostgreSQL's own: see `tree`. Other modules only read and change their fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...errors import UnsupportedQuery
from . import codec, parser
from .descriptors import numbers_of
from .grammar import grammar_error
from .parser import ParserError
from .remembered import remembered
from .tree import Node, Repeated, copy, parts, put

_SPOKEN = {
    "CreateStmt": "CREATE TABLE",
    "IndexStmt": "CREATE INDEX",
    "VariableSetStmt": "SET",
    "VariableShowStmt": "SHOW",
    "InsertStmt": "INSERT",
    "UpdateStmt": "UPDATE",
    "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE",
}


def parse(sql: str) -> list[Any]:
    """The statements of a text with `$n` placeholders; raises the `psycopg.Error` that PostgreSQL would."""
    try:
        return codec.read(sql)
    except ParserError as error:
        raise grammar_error(str(error), error.filename) from error
    except codec.TooDeep as error:
        raise UnsupportedQuery(
            "the statement is nested too deeply to be planned",
            hint="Pass key=…, or name the shard: shard(name).execute().",
        ) from error


def deparse(statement: Any) -> str:
    """The SQL of a tree (a SelectStmt, an InsertStmt, …), which is read back to see that it says the same.

    Raises `UnsupportedQuery` for a tree that the parser's own writer does not write down rightly.
    """
    _protect(statement)
    sql = parser.deparse(codec.encoded(statement))
    try:
        is_right = codec.is_read_as(sql, statement)
    except (ParserError, RecursionError):
        is_right = False
    if not is_right:
        raise UnsupportedQuery(
            "the statement cannot be written anew for each shard",
            detail=f"Its parts would be read otherwise: {sql}",
            hint="Pass key=…, or write it in another way.",
        )
    return sql


def _protect(statement: Any) -> None:
    """`(a IS DISTINCT FROM b) IS TRUE` would lose its parentheses; COALESCE of one value is that value."""
    for part in walk(statement):
        if type(part).__name__ not in ("BooleanTest", "NullTest") or kind(inner(part.arg)) != "A_Expr":
            continue
        if inner(part.arg).kind in (4, 5):  # IS [NOT] DISTINCT FROM
            argument = copy(inner(part.arg))
            del part.arg.coalesce_expr.args[:]
            put(part.arg.coalesce_expr.args.add(), argument)


def expression(sql: str) -> Any:
    """The tree (a Node) of one expression."""
    return copy(_expression(sql))


@remembered
def _expression(sql: str) -> Any:
    return parse(f"select {sql}")[0].target_list[0].res_target.val


def kind(message: Any) -> str:
    """`SelectStmt`, `ColumnRef`, …"""
    return type(message).__name__


def inner(node: Any) -> Any:
    """What a Node wraps; a message of another type is given as it is, an empty Node as None."""
    return node.held if type(node) is Node else node


def children(message: Any) -> Iterator[tuple[str, Any]]:
    """The unwrapped messages right below a message, each with the field that it stands in."""
    for name, part in parts(message):
        child = part.held if type(part) is Node else part
        if child is not None:
            yield name, child


# Below these nothing is of interest to anybody.
_LEAVES = frozenset(("A_Const", "ParamRef", "String", "Integer", "Float", "Boolean", "A_Star"))


def walk(message: Any) -> Iterator[Any]:
    """A message and everything below it, unwrapped."""
    left = [message]
    if type(message) is Node:
        yield message
        left = [] if message.held is None else [message.held]
    while left:
        child = left.pop()
        yield child
        if type(child).__name__ in _LEAVES:
            continue
        values = child.__dict__
        for name in child.LAST_FIRST:
            part = values.get(name)
            if part is None:
                continue
            for item in reversed(part) if part.__class__ is Repeated else (part,):
                below = item.held if item.__class__ is Node else item
                if below is not None:
                    left.append(below)


def strings(nodes: Iterable[Any]) -> list[str]:
    """The texts of a list of String nodes, such as the parts of a name."""
    return [node.held.sval for node in nodes if node.field == "string"]


def values_places(sql: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where in a text the rows of its first VALUES outside of parentheses stand, and where its parameters do."""
    words = numbers_of("Token")
    remarks = (words["SQL_COMMENT"], words["C_COMMENT"])
    rows: list[tuple[int, int]] = []
    params: list[tuple[int, int]] = []
    depth, start, state = 0, 0, "before"
    for word in parser.scan(sql.decode()):
        token = word.number
        if token == words["PARAM"]:
            params.append((word.start, word.end))
        elif token == ord("("):
            start = word.start if not depth else start
            depth += 1
        elif token == ord(")"):
            depth -= 1
            if not depth and state == "row":
                rows.append((start, word.end))
                state = "behind"
        elif not depth and token == words["VALUES"] and state == "before":
            state = "row"
        elif not depth and state in ("row", "behind") and token not in remarks:
            state = "row" if token == ord(",") else "after"
    return rows, params


def lexemes(sql: str) -> list[str]:
    """The words, signs and texts of some SQL as they stand in it, without comments; raises `ValueError`."""
    words = numbers_of("Token")
    remarks = (words["SQL_COMMENT"], words["C_COMMENT"])
    encoded = sql.encode()
    try:
        tokens = parser.scan(sql)
    except ParserError as error:
        raise ValueError(str(error)) from error
    return [encoded[word.start : word.end].decode() for word in tokens if word.number not in remarks]


def code_end(sql: str) -> int:
    """Where the last word of a statement ends: behind it are only blanks, comments and semicolons."""
    words = numbers_of("Token")
    behind = (words["SQL_COMMENT"], words["C_COMMENT"], ord(";"))
    ends = [word.end for word in parser.scan(sql) if word.number not in behind]
    return len(sql.encode()[: max(ends, default=0)].decode())


def quoted(name: str) -> str:
    """An identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


@remembered
def used_params(sql: str) -> frozenset[int]:
    """The numbers of the parameters that a statement uses."""
    return frozenset(part.number for tree in parse(sql) for part in walk(tree) if kind(part) == "ParamRef")


def verb(statement: Any) -> str:
    """`SelectStmt` → `SELECT`, `CreateTableAsStmt` → `CREATE TABLE AS`."""
    name = kind(statement)
    words = "".join(" " + letter if letter.isupper() else letter for letter in name.removesuffix("Stmt"))
    return _SPOKEN.get(name, words.strip().upper())


def is_star(target: Any) -> bool:
    value = inner(target.val)
    return kind(value) == "ColumnRef" and any(field.WhichOneof("node") == "a_star" for field in value.fields)


def assigned(target_list: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """What a list of assignments gives to each column (Nodes)."""
    targets = [target.res_target for target in target_list]
    for number, target in enumerate(targets):
        value = inner(target.val)
        if kind(value) != "MultiAssignRef":
            yield target.name, target.val
        elif kind(inner(value.source)) == "RowExpr":
            # `(a, b) = (…, …)`: the tree has all of what is behind it under each column.
            names = [each.name for each in targets[number - value.colno + 1 :]]
            yield from zip(names, value.source.row_expr.args, strict=False)


def has_limit(tree: Any) -> bool:
    return bool(tree.HasField("limit_count") or tree.HasField("limit_offset"))


def enum_name(message: Any, field_name: str) -> str:
    return str(message.FIELDS[field_name].names[getattr(message, field_name)])
