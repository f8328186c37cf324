# Generated from _async/work/statements.py by tools/unasync.py: edit that one, then run `make sync`.
"""One statement with its parameters, as each connection wants it."""

from __future__ import annotations

from typing import Any

from psycopg import Connection, sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format

from ..._call import Params
from ..._wire.statement import Statement
from ...errors import UnsupportedQuery
from ...query.text.placeholders import Converted, convert

# Types below have the same oid on every server; those of enums, composites and extensions differ.
FIRST_NORMAL_OID = 16384


def statement_on(conn: Connection[Any], query: Any, params: Params | None, binary: bool) -> Statement:
    """A statement with its parameters as the connection wants it."""
    return Statements(query, params, binary).on(conn)


class Statements:
    """One statement with its parameters, as each connection wants it."""

    def __init__(self, query: Any, params: Params | None, binary: bool) -> None:
        self._query = query
        self._params = params
        self._result_format = int(Format.BINARY if binary else Format.TEXT)
        self._binary = binary
        self._shared: Statement | None = None

    def on(self, conn: Connection[Any]) -> Statement:
        """The statement for this connection; dumped once when no parameter's type differs from server to server."""
        if self._shared is not None:
            return self._shared
        text = _text(self._query, conn)
        if self._params is None:
            # Without parameters the simple protocol is used, as psycopg does, unless binary rows are asked for.
            values: list[Any] | None = [] if self._binary else None
            statement = Statement(text, values, result_format=self._result_format)
        else:
            statement = self._dumped(convert(text), conn)
        if not isinstance(self._query, sql.Composable) and all(oid < FIRST_NORMAL_OID for oid in statement.types):
            self._shared = statement
        return statement

    def _dumped(self, converted: Converted, conn: Connection[Any]) -> Statement:
        transformer = Transformer(conn)
        assert self._params is not None
        values = transformer.dump_sequence(
            converted.arrange(self._params), [PyFormat(letter) for letter in converted.formats]
        )
        types, formats = transformer.types or (), transformer.formats or ()
        return Statement(converted.text, values, types, formats, self._result_format)


def _text(query: Any, conn: Connection[Any]) -> bytes:
    match query:
        case bytes():
            return query
        case str():
            return query.encode(conn.info.encoding)
        case sql.Composable():
            return query.as_bytes(conn)
    raise UnsupportedQuery(
        f"a query of type {type(query).__name__} cannot be scattered",
        hint="Pass str, bytes or a psycopg.sql object, with the parameters beside it.",
    )
