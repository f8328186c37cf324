# Generated from _async/sql/entries.py by tools/unasync.py: edit that one, then run `make sync`.
"""The entries of columns that are unique over the fleet, kept by the transaction that changes the columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg.errors import SerializationFailure, UniqueViolation

from ..._runtime.deadlines import Deadline
from ...control.lookups import TAKE, Entry, change_statement, owner_of
from ...errors import ScatterError, UnsupportedQuery
from ...topology import Sharded, Topology
from ..work.participants import Moved
from ..work.session import Session

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

_Changes = dict[str, tuple[Counter[Entry], Counter[Entry]]]


@contextmanager
def kept(fleet: Fleet, session: Session, deadline: Deadline, *, writes: bool) -> Iterator[None]:
    """A statement of which it is not known what it writes, with what it changes in the entries."""
    keeps = writes and bool(fleet.topology.lookups)
    if keeps:
        session.keep(deadline)
    yield
    if keeps:
        settle(fleet, session, deadline, session.writers)


def settle_lent(fleet: Fleet, session: Session) -> None:
    """Before the end of a transaction: what the caller has changed on connections of its own."""
    if session.keeps and session.has_lent:
        session.check_usable()
        settle(fleet, session, session.deadline(None), session.names)


def settle(fleet: Fleet, session: Session, deadline: Deadline, names: Sequence[str]) -> None:
    """Change the entries as the columns have changed on these shards, in the same transaction.

    Raises `UniqueViolation` for a value that another row has, upon which the transaction has failed.
    """
    try:
        told = session.told(dict.fromkeys(names, TAKE), deadline)
        changes = _changes(
            (request.pgresult.get_value(0, 0) or b"").decode(request.conn.info.encoding) for request in told
        )
        if changes:
            _change(fleet.topology, session, deadline, changes)
    except BaseException:
        session.fail()
        raise


def _change(topology: Topology, session: Session, deadline: Deadline, changes: _Changes) -> None:
    statements = _statements(changes, topology)
    shards = [name for name in topology.shards if name in statements]
    try:
        joined = session.join(shards, deadline, topology)
        session.will_write(shards)
        texts = {name: statements[name].encode(conn.info.encoding) for name, conn in joined.conns.items()}
        session.told(texts, deadline)
    except Moved:
        raise SerializationFailure("values were on their way to a shard that has given them to another") from None
    except (psycopg.Error, ScatterError) as error:
        failures = error.failures.values() if isinstance(error, ScatterError) else [error]
        first: BaseException = next((each for each in failures if isinstance(each, UniqueViolation)), error)
        meant = session.waiting.meant(first)
        if meant is error:
            raise
        raise meant from error


def _changes(answers: Iterable[str]) -> _Changes:
    """By lookup, the entries that are gone and those that are new; what comes back where it was is neither."""
    changes: _Changes = {}
    for line in (line for answer in answers for line in answer.split("\n") if line):
        name, gone, new = json.loads(line)
        both = changes.setdefault(name, (Counter(), Counter()))
        for counter, rows in zip(both, (gone, new), strict=True):
            counter.update(tuple(map(str, row)) for row in rows)
    return {name: (gone - new, new - gone) for name, (gone, new) in changes.items() if gone != new}


def _statements(changes: _Changes, topology: Topology) -> dict[str, str]:
    """What each shard is told."""
    lookups = {lookup.name: lookup for found in topology.lookups.values() for lookup in found}
    statements: dict[str, list[str]] = {}
    for name, both in changes.items():
        lookup = lookups.get(name)
        if lookup is None:
            raise UnsupportedQuery(
                f"the shards keep {name} unique over the fleet, and the topology says nothing of it",
                hint=f"Write the lookup into the file again, and then run: shardpool lookup drop {name}",
            )
        by_shard: dict[str, tuple[list[Entry], list[Entry]]] = {}
        for number, entries in enumerate(both):
            for entry in sorted(entries.elements()):
                by_shard.setdefault(owner_of(topology, lookup, entry[0]), ([], []))[number].append(entry)
        placement = topology.placements[lookup.table]
        assert isinstance(placement, Sharded)
        for shard, (gone, new) in by_shard.items():
            statements.setdefault(shard, []).append(change_statement(lookup, placement.key_columns, gone, new))
    return {shard: "; ".join(texts) for shard, texts in statements.items()}
