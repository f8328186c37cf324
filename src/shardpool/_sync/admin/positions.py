# Generated from _async/admin/positions.py by tools/unasync.py: edit that one, then run `make sync`.
"""Where the sequences of a shard are, and the highest numbers that its rows have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from ..._runtime.deadlines import Deadline
from ...control.stored_facts import Numbering, StoredFacts

# Of a sequence that nobody has drawn from yet: NULL.
_POSITION = """
    select case when pg_catalog.has_sequence_privilege({name}::pg_catalog.regclass::pg_catalog.oid, 'usage,select')
                then pg_catalog.pg_sequence_last_value({name}::pg_catalog.regclass)::numeric end,
           (select pg_catalog.max({column})::numeric from {table})
"""
_BOUNDED = "select pg_catalog.set_config('statement_timeout', %s, false)"


def positions(
    conn: Connection[Any], stored_by_table: Mapping[str, StoredFacts], deadline: Deadline
) -> dict[str, StoredFacts]:
    """The tables with the positions of their sequences; each is looked at in half of the time that is left."""
    found = {}
    for table, stored in stored_by_table.items():
        numbered = [_position(conn, table, numbering, deadline) for numbering in stored.numbered]
        found[table] = replace(stored, numbered=tuple(numbered))
    conn.execute(_BOUNDED, ("0",))
    return found


def _position(conn: Connection[Any], table: str, numbering: Numbering, deadline: Deadline) -> Numbering:
    if not numbering.sequence:
        return numbering
    query = sql.SQL(_POSITION).format(
        name=numbering.sequence, column=sql.Identifier(numbering.column), table=sql.Identifier(*table.split(".", 1))
    )
    cursor = conn.cursor(row_factory=tuple_row)
    try:
        conn.execute(_BOUNDED, (f"{max(1, int((deadline - monotonic()) * 500))}ms",))
        cursor.execute(query)
        row = cursor.fetchone()
    except (psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege):
        # Of a table too large to be looked through: it has no index by which that is quick.
        return numbering
    assert row is not None
    return replace(numbering, last=row[0], highest=row[1])
