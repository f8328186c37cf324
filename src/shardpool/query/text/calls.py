"""What a caller's query is, as far as it can be told without a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from ..._exports import later
from ...errors import UnsupportedQuery

if TYPE_CHECKING:
    from . import placeholders, statement
    from .placeholders import Converted
else:
    # The parser is not for those who only send what they are given.
    placeholders, statement = later(__package__, "placeholders", "statement")

# What is one transaction whatever it calls: CALL and DO may have committed before they failed.
_REPEATABLE = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


def converted(query: str, has_params: bool) -> tuple[str, Converted | None]:
    """The text with `$n` for the placeholders of psycopg, which it has when it is run with parameters."""
    if "\0" in query:
        raise UnsupportedQuery("the statement holds a NUL character")
    conversion = placeholders.convert(query.encode()) if has_params else None
    return (conversion.text.decode() if conversion is not None else query), conversion


def trees_of(query: Any) -> list[Any] | None:
    """The statements of a query with parameters, parsed; None for what cannot be."""
    try:
        if isinstance(query, sql.Composable):
            query = query.as_bytes(None)
        return statement.parse(converted(query.decode() if isinstance(query, bytes) else query, True)[0])
    except Exception:
        return None


def is_repeatable(query: Any) -> bool:
    """Whether nothing of a statement that failed has remained: it is one, and cannot commit inside."""
    trees = trees_of(query)
    return trees is not None and len(trees) == 1 and statement.kind(trees[0]) in _REPEATABLE


def is_ddl(status: bytes | None) -> bool:
    """Whether a command tag is one of a statement that may change what the catalog says, or restart sequences."""
    return status is not None and status.startswith((b"CREATE", b"ALTER", b"DROP", b"TRUNCATE"))
