# Generated from _async/work/autocommit.py by tools/unasync.py: edit that one, then run `make sync`.
"""One statement in autocommit on a shard, in one round trip; made once more where that can do nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import RowFactory

from ..._call import Params
from ..._endpoint.session import SESSION, note, quiet, transformer_of
from ..._runtime.deadlines import Deadline
from ..._runtime.intake import with_outcome
from ..._wire.request import LEFT_OPEN
from ...control.settings import is_read_alike
from ...errors import RouterMisuse, UnsupportedQuery, first_line
from ...query.text.calls import is_ddl, is_repeatable
from ...result import Result
from ...tokens import Token
from ..fleet.pools import EndpointPool
from .checkout import Checkout, UnitTarget, is_lost
from .outcomes import explain, is_outdated, unknown

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

_INTRANS = TransactionStatus.INTRANS


def run(
    fleet: Fleet,
    target: UnitTarget,
    query: Any,
    params: Params | None,
    deadline: Deadline,
    *,
    readonly: bool,
    prepare: bool | None = None,
    binary: bool = False,
    row_factory: RowFactory[Any] | None = None,
    after: Token | None = None,
    chosen: EndpointPool | None = None,
    again: bool = False,
    reading: Mapping[str, str | None] | None = None,
) -> Result:
    """Run one statement in autocommit until a deadline in monotonic seconds; of several, give the last one's result.

    `again` runs it in a transaction that may only read: what writes is refused by the server then.

    `reading` are settings by which the statement was routed: a session must have those.
    """
    fleet.retries.earn()
    checkout = Checkout.take(fleet, target, deadline, readonly=readonly, after=after, chosen=chosen, at_once=readonly)
    pool, conn = checkout.pool, checkout.conn
    try:
        checkout.watch(deadline, fleet.limits.max_result_bytes)
        if reading is not None and not is_read_alike(conn.__dict__[SESSION].settings, reading):
            fleet.schema.changed()
            pool.drain()
            raise _read_otherwise(pool.shard, reading)
        if not conn.autocommit:
            checkout.begin()
        if type(query) is not str or query not in quiet:
            note(conn, query)
        cursor = conn.cursor(binary=binary)
        if again:
            conn.execute("begin read only", prepare=False)
        cursor.execute(query, params, prepare=prepare)
        while cursor.nextset():
            pass
        if again:
            conn.execute("commit", prepare=False)
        if conn.pgconn.transaction_status == _INTRANS:
            conn.rollback()
            raise RouterMisuse(LEFT_OPEN, hint="Use transaction() for what is to be one transaction.")
        pgresult = cursor.pgresult
        assert pgresult is not None
        if not pgresult.nfields and is_ddl(pgresult.command_status):
            fleet.schema.changed()
            if not (pgresult.command_status or b"").startswith(b"TRUNCATE"):
                pool.drain()
        return Result(pgresult, conn, (pool.shard,), row_factory, transformer_of(cursor))
    except psycopg.Error as error:
        failure = error
        lost = is_lost(conn)
    finally:
        cut = checkout.end()
    wrote = (cut or lost) and fleet.schema.may_write(query)
    if cut and checkout.too_large is not None:
        raise with_outcome(checkout.too_large, wrote) from failure
    explained = explain(failure, pool, cut=cut, lost=lost, phase="query", may_be_applied=wrote)
    outdated = is_outdated(failure)
    if outdated:
        pool.drain()
        # A procedure may have committed before a statement in it failed so.
        outdated = is_repeatable(query)
    if (outdated or (lost and not cut and not wrote)) and fleet.retries.spend():
        pool.health.retried(failure)
        try:
            return run(
                fleet,
                target,
                query,
                params,
                deadline,
                readonly=readonly,
                prepare=prepare,
                binary=binary,
                row_factory=row_factory,
                after=after,
                again=again or not outdated,
                reading=reading,
            )
        except psycopg.errors.ReadOnlySqlTransaction:
            if outdated:
                raise
            # It writes after all, in a view, an operator or a cast; and may have done so the first time.
            raise unknown(pool, "query", first_line(failure)) from failure
    if explained is not None and explained is not failure:
        raise explained from failure
    raise failure


def _read_otherwise(shard: str, reading: Mapping[str, str | None]) -> UnsupportedQuery:
    return UnsupportedQuery(
        f"shard {shard} reads this statement otherwise than it was routed by: {', '.join(reading)} is another there",
        hint="Give all shards the same settings; or write E'…' for texts with a backslash, and IS NULL for = NULL.",
    )
