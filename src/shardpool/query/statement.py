"""SQL text ↔ syntax trees. The only module that knows the SQL parser, which is imported when it is first needed.

Trees are PostgreSQL's own (protobuf messages of libpg_query); other modules only read and change their fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import UnsupportedQuery
from .grammar import grammar_error
from .remembered import remembered

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


_PLACES = ("location", "rexpr_list_start", "rexpr_list_end", "list_start", "list_end", "stmt_location", "stmt_len")


def parse(sql: str) -> list[Any]:
    """The statements of a text with `$n` placeholders; raises the `psycopg.Error` that PostgreSQL would."""
    import postgast
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        tree = postgast.parse(sql)
    except postgast.PgQueryError as error:
        raise grammar_error(str(error), error.filename) from error
    except DecodeError as error:
        raise UnsupportedQuery(
            "the statement is nested too deeply to be planned",
            hint="Pass key=…, or name the shard: shard(name).execute().",
        ) from error
    return [inner(raw.stmt) for raw in tree.stmts]


def deparse(statement: Any) -> str:
    """The SQL of a tree (a SelectStmt, an InsertStmt, …), which is read back to see that it says the same.

    Raises `UnsupportedQuery` for a tree that the parser's own writer does not write down rightly.
    """
    import postgast

    _protect(statement)
    tree = postgast.pg_query_pb2.ParseResult()
    getattr(tree.stmts.add().stmt, _field_name(kind(statement))).CopyFrom(statement)
    sql = str(postgast.deparse(tree))
    if without_places(parse(sql)[0]) != without_places(statement):
        raise UnsupportedQuery(
            "the statement cannot be written anew for each shard",
            detail=f"Its parts would be read otherwise: {sql}",
            hint="Pass key=…, or write it in another way.",
        )
    return sql


def _protect(statement: Any) -> None:
    """`(a IS DISTINCT FROM b) IS TRUE` would lose its parentheses; COALESCE of one value is that value."""
    for found in walk(statement):
        if kind(found) not in ("BooleanTest", "NullTest") or kind(inner(found.arg)) != "A_Expr":
            continue
        if inner(found.arg).kind in (4, 5):  # IS [NOT] DISTINCT FROM
            argument = copy(inner(found.arg))
            del found.arg.coalesce_expr.args[:]
            found.arg.coalesce_expr.args.add().a_expr.CopyFrom(argument)


def without_places(message: Any) -> bytes:
    """A tree as bytes in which it does not matter where in the text each part of it stands."""
    found = copy(message)
    _clear_places(found)
    return bytes(found.SerializeToString(deterministic=True))


def _clear_places(message: Any) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for child in (value,) if hasattr(value, "DESCRIPTOR") else value:
                _clear_places(child)
        elif descriptor.name in _PLACES:
            message.ClearField(descriptor.name)


def expression(sql: str) -> Any:
    """The tree (a Node) of one expression."""
    return parse(f"select {sql}")[0].target_list[0].res_target.val


def copy(message: Any) -> Any:
    """A deep copy of a message."""
    new = type(message)()
    new.CopyFrom(message)
    return new


def kind(message: Any) -> str:
    """`SelectStmt`, `ColumnRef`, …"""
    return type(message).__name__


def inner(node: Any) -> Any:
    """What a Node wraps; a message of another type is given as it is, an empty Node as None."""
    if type(node).__name__ != "Node":
        return node
    name = node.WhichOneof("node")
    return getattr(node, name) if name else None


def children(message: Any) -> Iterator[tuple[str, Any]]:
    """The unwrapped messages right below a message, each with the field that it stands in."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for child in (value,) if hasattr(value, "DESCRIPTOR") else value:
            found = inner(child)
            if found is not None:
                yield descriptor.name, found


# Below these nothing is of interest to anybody.
_LEAVES = frozenset(("A_Const", "ParamRef", "String", "Integer", "Float", "Boolean", "A_Star"))


def walk(message: Any) -> Iterator[Any]:
    """A message and everything below it, unwrapped."""
    left = [message]
    while left:
        found = left.pop()
        yield found
        if type(found).__name__ not in _LEAVES:
            left.extend(reversed([child for _, child in children(found)]))


def strings(nodes: Iterable[Any]) -> list[str]:
    """The texts of a list of String nodes, such as the parts of a name."""
    return [node.string.sval for node in nodes if node.WhichOneof("node") == "string"]


def values_places(sql: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where in a text the rows of its first VALUES outside of parentheses stand, and where its parameters do."""
    import postgast

    token_of = postgast.pg_query_pb2.Token
    opening, closing, comma = token_of.ASCII_40, token_of.ASCII_41, token_of.ASCII_44
    remarks = (token_of.SQL_COMMENT, token_of.C_COMMENT)
    rows: list[tuple[int, int]] = []
    params: list[tuple[int, int]] = []
    depth, start, state = 0, 0, "before"
    for found in postgast.scan(sql.decode()).tokens:
        token = found.token
        if token == token_of.PARAM:
            params.append((found.start, found.end))
        elif token == opening:
            start = found.start if not depth else start
            depth += 1
        elif token == closing:
            depth -= 1
            if not depth and state == "row":
                rows.append((start, found.end))
                state = "behind"
        elif not depth and token == token_of.VALUES and state == "before":
            state = "row"
        elif not depth and state in ("row", "behind") and token not in remarks:
            state = "row" if token == comma else "after"
    return rows, params


def code_end(sql: str) -> int:
    """Where the last word of a statement ends: behind it are only blanks, comments and semicolons."""
    import postgast

    token_of = postgast.pg_query_pb2.Token
    behind = (token_of.SQL_COMMENT, token_of.C_COMMENT, token_of.ASCII_59)
    ends = [found.end for found in postgast.scan(sql).tokens if found.token not in behind]
    return len(sql.encode()[: max(ends, default=0)].decode())


def quoted(name: str) -> str:
    """An identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


@remembered
def used_params(sql: str) -> frozenset[int]:
    """The numbers of the parameters that a statement uses."""
    return frozenset(found.number for tree in parse(sql) for found in walk(tree) if kind(found) == "ParamRef")


def verb(statement: Any) -> str:
    """`SelectStmt` → `SELECT`, `CreateTableAsStmt` → `CREATE TABLE AS`."""
    name = kind(statement)
    words = "".join(" " + letter if letter.isupper() else letter for letter in name.removesuffix("Stmt"))
    return _SPOKEN.get(name, words.strip().upper())


def _field_name(name: str) -> str:
    """`SelectStmt` → `select_stmt`, the name of its field in Node."""
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


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
            names = [found.name for found in targets[number - value.colno + 1 :]]
            yield from zip(names, value.source.row_expr.args, strict=False)


def has_limit(tree: Any) -> bool:
    return bool(tree.HasField("limit_count") or tree.HasField("limit_offset"))


def enum_name(message: Any, field_name: str) -> str:
    descriptor = message.DESCRIPTOR.fields_by_name[field_name].enum_type
    return str(descriptor.values_by_number[getattr(message, field_name)].name)
