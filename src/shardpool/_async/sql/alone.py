"""A statement of a transaction on the one shard that it concerns, as it stands, by psycopg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from ..._call import Call
from ..._endpoint.session import SESSION, note, quiet, transformer_of
from ..._wire.opening import Opening
from ...control.settings import is_read_alike
from ...errors import RouterMisuse, UnsupportedQuery
from ...query.plans.planned import Planned
from ...query.text.calls import is_ddl
from ...result import Result
from ..work.checkout import AsyncCheckout, is_lost
from ..work.outcomes import explain

if TYPE_CHECKING:
    from ..work.session import AsyncSession


async def execute(
    session: AsyncSession, call: Call, name: str, query: Any, *, writes: bool, planned: Planned | None = None
) -> Result:
    """Run it on that shard. The first statement there goes out together with BEGIN."""
    checkout = await session.join_one(name, call.deadline, None if planned is None else planned.topology)
    conn = checkout.conn
    try:
        if writes:
            session.will_write((name,))
        if planned is not None and planned.reading is not None:
            _check_reading(conn, name, planned)
        if type(query) is not str or query not in quiet:
            note(conn, query)
        if session.unbegun is not None and not _may_open(call, planned):
            await session.begin(name, call.deadline)
        cursor = conn.cursor(binary=call.binary)
        checkout.watch_until(call.deadline)
        try:
            if session.unbegun is None:
                await cursor.execute(query, call.params)
                while cursor.nextset():
                    pass
            else:
                with session.opening(name):
                    await cursor.execute(query, call.params)
        except psycopg.Error as error:
            raise session.waiting.meant(_explained(error, checkout)) from error
        finally:
            checkout.watch_until(session.until)
    finally:
        if session.unbegun is not None:
            # Nothing was sent.
            await session.leave(name)
    if not session.is_open(name):
        raise RouterMisuse(
            "the statement has ended the transaction on its shard",
            hint="Let the block end it: no COMMIT, ROLLBACK or PREPARE TRANSACTION within.",
        )
    pgresult = cursor.pgresult
    assert pgresult is not None
    if not pgresult.nfields and is_ddl(pgresult.command_status):
        session.changes_schema = True
    return Result(pgresult, conn, (name,), call.row_factory, transformer_of(cursor))


def _may_open(call: Call, planned: Planned | None) -> bool:
    """Whether it is one statement, which can go out together with others: a text without parameters may be several."""
    return (planned is not None or call.params is not None) and Opening.is_possible()


def _explained(error: psycopg.Error, checkout: AsyncCheckout) -> BaseException:
    cut = checkout.is_cut
    explained = explain(error, checkout.pool, cut=cut, lost=is_lost(checkout.conn), phase="query", may_be_applied=False)
    return explained or error


def _check_reading(conn: AsyncConnection[Any], name: str, planned: Planned) -> None:
    reading: Mapping[str, str | None] = planned.reading or {}
    if not is_read_alike(conn.__dict__[SESSION].settings, reading):
        raise UnsupportedQuery(
            f"shard {name} reads this statement otherwise than it was routed by: {', '.join(reading)} is another there",
            hint="Give all shards the same settings; or write E'…' for texts with a backslash, and IS NULL for = NULL.",
        )
