# Generated from _async/work/copies.py by tools/unasync.py: edit that one, then run `make sync`.
"""Writes a reference table: first on one shard, then on the others, until all copies have the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..._wire.participant import PATIENT
from ..._wire.request import Request
from ..._wire.statement import Statement
from ...errors import UnsupportedQuery
from .transaction import Transaction

if TYPE_CHECKING:
    from ...query.plans.plan import Copies

# A statement has to see what those who held the locks before have done: a snapshot of the whole transaction would not.
_READ_COMMITTED = b"begin isolation level read committed"
# Triggers have had their turn: what they have made of the rows on one shard is put into the others.
_WITHOUT_TRIGGERS = b"set local session_replication_role = replica"
_MAY_GO_WITHOUT = b"""
    select pg_catalog.current_setting('is_superuser')::boolean
        or pg_catalog.has_parameter_privilege('session_replication_role', 'SET')
"""
_PARAMETER_PRIVILEGES_SINCE = 150000

Row = tuple[bytes | None, ...]


class CopiesWrite:
    """One write of a reference table under way."""

    def __init__(self, transaction: Transaction, hidden: int, copies: Copies) -> None:
        self._transaction = transaction
        self._copies = copies
        self._hidden = hidden
        self._before: tuple[bytes, ...] = (_READ_COMMITTED, PATIENT, *(lock.encode() for lock in copies.locks))

    def go_on(self) -> None:
        """What is run next is of the transactions that have been begun."""
        self._before = ()

    def run(self, statements: Mapping[str, Statement]) -> list[Request]:
        """The requests, that of the first shard before the others: its locks are taken before they are asked.

        Raises `UnsupportedQuery` when the copies would not be the same.
        """
        first, *others = statements
        requests = self._transaction.write({first: statements[first]}, self._before)
        made = requests[0]
        if not others:
            return requests
        same = {name: statements[name] for name in others}
        if self._copies.finish:
            same = dict.fromkeys(others, self._with_rows(self._copies.finish, made))
        requests += self._transaction.write(same, self._before)
        if any(request.pgresult.command_tuples != made.pgresult.command_tuples for request in requests):
            raise _copies_differ(requests)
        differing = self._differing(requests)
        if differing and self._copies.mend:
            differing = self._differing([made, *self._mended(differing, made)])
        if differing:
            raise _rows_differ(self._copies, differing, made)
        return requests

    def _differing(self, requests: Sequence[Request]) -> list[Request]:
        """The requests that have written other rows than the first."""
        if not self._copies.compared:
            return []
        made = Counter(self._rows(requests[0]))
        return [request for request in requests[1:] if Counter(self._rows(request)) != made]

    def _rows(self, request: Request) -> list[Row]:
        """All columns of the rows that a request has written, as texts."""
        result = request.pgresult
        columns = range(result.nfields - self._hidden, result.nfields)
        return [tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)]

    def _with_rows(self, sql: str, made: Request) -> Statement:
        """A statement whose parameters are the columns of the rows that a request has written."""
        encoding = made.conn.info.encoding
        columns = list(zip(*self._rows(made), strict=True)) or [()] * self._hidden
        values = [array(column, encoding) for column in columns]
        return Statement(sql.encode(encoding), values, [0] * len(values), [0] * len(values))

    def _mended(self, requests: Sequence[Request], made: Request) -> list[Request]:
        """The rows of the first shard put into the others, without their triggers where that is allowed."""
        before = (_WITHOUT_TRIGGERS,) if self._may_go_without_triggers(requests[0]) else ()
        return self._transaction.write(
            dict.fromkeys([request.shard for request in requests], self._with_rows(self._copies.mend, made)), before
        )

    def _may_go_without_triggers(self, request: Request) -> bool:
        query = _MAY_GO_WITHOUT
        if request.conn.info.server_version < _PARAMETER_PRIVILEGES_SINCE:
            query = query[: query.index(b" or ")]
        (answer,) = self._transaction.write({request.shard: Statement(query, None)}, ())
        return bool(answer.pgresult.get_value(0, 0) == b"t")


def array(values: Sequence[bytes | None], encoding: str) -> bytes:
    """An array of texts as PostgreSQL reads it."""
    texts = [None if value is None else value.decode(encoding) for value in values]
    quoted = [
        '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if text is not None else "NULL" for text in texts
    ]
    return ("{" + ",".join(quoted) + "}").encode(encoding)


def _copies_differ(requests: Sequence[Request]) -> UnsupportedQuery:
    return UnsupportedQuery(
        "the copies of the reference table are not the same on all shards: nothing was written",
        detail=", ".join(f"{request.shard}: {request.pgresult.command_tuples} rows" for request in requests),
        hint="Find the difference with check(), and mend the copies first.",
    )


def _rows_differ(copies: Copies, differing: Sequence[Request], made: Request) -> UnsupportedQuery:
    table = copies.table.removeprefix("public.")
    return UnsupportedQuery(
        f"the rows written to the reference table {table} would differ from shard to shard: nothing was written",
        detail=f"Those of {', '.join(request.shard for request in differing)} are not those of {made.shard}: a trigger "
        "or a function gives each shard its own, or the copies were not the same before.",
        hint="Give the table a primary key and let the role set session_replication_role (GRANT SET ON PARAMETER …): "
        "then the rows of one shard are put into the others past their triggers.",
    )
