"""Writes a reference table: first on one shard, then on the others, until all copies have the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .._leg import Leg, Statement
from .._participant import PATIENT
from ..errors import UnsupportedQuery
from ..query.plan import Copies
from .unit import AsyncUnit

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


class AsyncCopiesWrite:
    """One write of a reference table under way."""

    def __init__(self, unit: AsyncUnit, hidden: int, copies: Copies) -> None:
        self._unit = unit
        self._copies = copies
        self._hidden = hidden
        self._before: tuple[bytes, ...] = (_READ_COMMITTED, PATIENT, *(lock.encode() for lock in copies.locks))

    def go_on(self) -> None:
        """What is run next is of the transactions that have been begun."""
        self._before = ()

    async def run(self, statements: Mapping[str, Statement]) -> list[Leg]:
        """The legs, that of the first shard before the others: its locks are taken before they are asked.

        Raises `UnsupportedQuery` when the copies would not be the same.
        """
        first, *others = statements
        legs = await self._unit.write({first: statements[first]}, self._before)
        made = legs[0]
        if not others:
            return legs
        same = {name: statements[name] for name in others}
        if self._copies.finish:
            same = dict.fromkeys(others, self._with_rows(self._copies.finish, made))
        legs += await self._unit.write(same, self._before)
        if any(leg.pgresult.command_tuples != made.pgresult.command_tuples for leg in legs):
            raise _copies_differ(legs)
        differing = self._differing(legs)
        if differing and self._copies.mend:
            differing = self._differing([made, *await self._mended(differing, made)])
        if differing:
            raise _rows_differ(self._copies, differing, made)
        return legs

    def _differing(self, legs: Sequence[Leg]) -> list[Leg]:
        """The legs that have written other rows than the first."""
        if not self._copies.compared:
            return []
        made = Counter(self._rows(legs[0]))
        return [leg for leg in legs[1:] if Counter(self._rows(leg)) != made]

    def _rows(self, leg: Leg) -> list[Row]:
        """All columns of the rows that a leg has written, as texts."""
        result = leg.pgresult
        columns = range(result.nfields - self._hidden, result.nfields)
        return [tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)]

    def _with_rows(self, sql: str, made: Leg) -> Statement:
        """A statement whose parameters are the columns of the rows that a leg has written."""
        encoding = made.conn.info.encoding
        columns = list(zip(*self._rows(made), strict=True)) or [()] * self._hidden
        values = [array(column, encoding) for column in columns]
        return Statement(sql.encode(encoding), values, [0] * len(values), [0] * len(values))

    async def _mended(self, legs: Sequence[Leg], made: Leg) -> list[Leg]:
        """The rows of the first shard put into the others, without their triggers where that is allowed."""
        before = (_WITHOUT_TRIGGERS,) if await self._may_go_without_triggers(legs[0]) else ()
        return await self._unit.write(
            dict.fromkeys([leg.shard for leg in legs], self._with_rows(self._copies.mend, made)), before
        )

    async def _may_go_without_triggers(self, leg: Leg) -> bool:
        query = _MAY_GO_WITHOUT
        if leg.conn.info.server_version < _PARAMETER_PRIVILEGES_SINCE:
            query = query[: query.index(b" or ")]
        (told,) = await self._unit.write({leg.shard: Statement(query, None)}, ())
        return bool(told.pgresult.get_value(0, 0) == b"t")


def array(values: Sequence[bytes | None], encoding: str) -> bytes:
    """An array of texts as PostgreSQL reads it."""
    texts = [None if value is None else value.decode(encoding) for value in values]
    quoted = [
        '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if text is not None else "NULL" for text in texts
    ]
    return ("{" + ",".join(quoted) + "}").encode(encoding)


def _copies_differ(legs: Sequence[Leg]) -> UnsupportedQuery:
    return UnsupportedQuery(
        "the copies of the reference table are not the same on all shards: nothing was written",
        detail=", ".join(f"{leg.shard}: {leg.pgresult.command_tuples} rows" for leg in legs),
        hint="Find the difference with check(), and mend the copies first.",
    )


def _rows_differ(copies: Copies, differing: Sequence[Leg], made: Leg) -> UnsupportedQuery:
    table = copies.table.removeprefix("public.")
    return UnsupportedQuery(
        f"the rows written to the reference table {table} would differ from shard to shard: nothing was written",
        detail=f"Those of {', '.join(leg.shard for leg in differing)} are not those of {made.shard}: a trigger or a "
        "function gives each shard its own, or the copies were not the same before.",
        hint="Give the table a primary key and let the role set session_replication_role (GRANT SET ON PARAMETER …): "
        "then the rows of one shard are put into the others past their triggers.",
    )
