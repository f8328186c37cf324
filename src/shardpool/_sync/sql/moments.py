# Generated from _async/sql/moments.py by tools/unasync.py: edit that one, then run `make sync`.
"""Parameters that each server would read as a moment of its own (`'now'`, `'today'`), told to all by one shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..._wire.statement import Statement
from ...query.analysis.purity import names_a_time
from ..work.transaction import Transaction

# Types whose values are texts for themselves: unknown, text, varchar, char(n), "char", name, json, jsonb, xml, bytea.
_TEXTS = frozenset((0, 705, 25, 1043, 1042, 18, 19, 114, 3802, 142, 17))
_TYPE_NAME = b"select pg_catalog.format_type($1::pg_catalog.oid, null)"


def told(transaction: Transaction, statements: Mapping[str, Statement]) -> dict[str, Statement]:
    """The statements with the values that the first of the shards reads in such parameters."""
    shard = next(iter(statements))
    moments: dict[tuple[bytes, int], bytes] = {}
    found: dict[int, Statement] = {}
    for statement in statements.values():
        if id(statement) not in found:
            found[id(statement)] = _told(transaction, shard, statement, moments)
    return {name: found[id(statement)] for name, statement in statements.items()}


def _told(
    transaction: Transaction, shard: str, statement: Statement, moments: dict[tuple[bytes, int], bytes]
) -> Statement:
    values = list(statement.values or ())
    places = _places(values, statement.formats)
    if not places:
        return statement
    described = transaction.describe(shard, statement)
    for place in places:
        value, oid = bytes(values[place] or b""), described.param_type(place)
        if oid in _TEXTS:
            continue
        if (value, oid) not in moments:
            moments[value, oid] = _read(transaction, shard, value, oid)
        values[place] = moments[value, oid]
    return replace(statement, values=values)


def _places(values: Sequence[bytes | None], formats: Sequence[int]) -> list[int]:
    """The numbers, from 0, of the values that may name a moment."""
    texts = [(place, bytes(value)) for place, value in enumerate(values) if value is not None and not formats[place]]
    # At once first: seldom there is any, and there can be many values.
    if not names_a_time(b"\0".join([text for _, text in texts])):
        return []
    return [place for place, text in texts if names_a_time(text)]


def _read(transaction: Transaction, shard: str, value: bytes, oid: int) -> bytes:
    named = transaction.ask(shard, Statement(_TYPE_NAME, [b"%d" % oid], [0], [0]))
    query = b"select $1::pg_catalog.text::%s::pg_catalog.text" % named.get_value(0, 0)
    read = transaction.ask(shard, Statement(query, [value], [0], [0]))
    return bytes(read.get_value(0, 0))
