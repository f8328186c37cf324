"""One endpoint as its server tells of itself now, and the time that it took to tell."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import tuple_row

from ..._endpoint.breaker import is_timeout
from ..._endpoint.refusals import Retired
from ..._runtime.deadlines import Deadline, deadline_after
from ...control.own_sql import qualified
from ...errors import DeadlineExceeded, ShardpoolError, first_line
from ..fleet.pools import AsyncEndpointPool
from ..work.checkout import AsyncCheckout

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

# pg_is_in_recovery() decides first: pg_current_wal_lsn() is an error on a standby. What other roles do is shown by
# pg_stat_activity without its text, which is not asked for.
_QUERY = qualified("""
    select pg_catalog.pg_is_in_recovery(),
           (select pg_catalog.count(*) from pg_catalog.pg_stat_activity a
            where a.backend_type = 'client backend' and a.datname = pg_catalog.current_database()),
           (select pg_catalog.count(*) from pg_catalog.pg_stat_activity a
            where a.state = 'active' and a.backend_type = 'client backend' and a.pid <> pg_catalog.pg_backend_pid()
              and a.datname = pg_catalog.current_database()),
           (select pg_catalog.count(*) from pg_catalog.pg_stat_activity a
            where a.wait_event_type = 'Lock' and a.datname = pg_catalog.current_database()),
           pg_catalog.current_setting('max_connections')::integer,
           (select d.xact_commit + d.xact_rollback from pg_catalog.pg_stat_database d
            where d.datname = pg_catalog.current_database()),
           case when pg_catalog.pg_is_in_recovery()
                then pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn
                else pg_catalog.pg_current_wal_lsn() - '0/0'::pg_catalog.pg_lsn end
""")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one look at an endpoint found at `at` (monotonic seconds), or why it found nothing: `error`, with
    `is_silent` when there was no answer in time.

    `ping` is the time of one round trip in seconds, `transactions` counts those of the database since its statistics
    were reset, `wal` is the place that a primary has written or a standby replayed, in bytes.
    """

    at: float
    error: str | None = None
    is_silent: bool = False
    ping: float | None = None
    role: str | None = None
    connections: int | None = None
    active: int | None = None
    waiting: int | None = None
    max_connections: int | None = None
    transactions: int | None = None
    wal: int | None = None


async def sample(fleet: AsyncFleet, shard: str, endpoint: str, timeout: float) -> Sample:
    """A look at one endpoint within `timeout` seconds. What fails is told by the sample, not raised."""
    deadline = deadline_after(timeout)
    pools = fleet.snapshot.shards[shard].endpoints
    pool = next(pool for pool in pools if pool.endpoint.name == endpoint)
    try:
        return await _sample(pool, deadline)
    except (psycopg.Error, ShardpoolError, Retired) as error:
        silent = isinstance(error, DeadlineExceeded) or (error.__cause__ is not None and is_timeout(error.__cause__))
        return Sample(monotonic(), error=first_line(error) or type(error).__name__, is_silent=silent)


async def _sample(pool: AsyncEndpointPool, deadline: Deadline) -> Sample:
    checkout = await AsyncCheckout.of_pool(pool, deadline)
    try:
        checkout.watch(deadline, suspects=False)
        await checkout.begin()
        cursor = checkout.conn.cursor(row_factory=tuple_row)
        begun = monotonic()
        await cursor.execute("select 1", prepare=False)
        ended = monotonic()
        await cursor.execute(_QUERY)
        row = await cursor.fetchone()
    finally:
        await checkout.end()
    assert row is not None
    standby, connections, active, waiting, most, transactions, wal = row
    return Sample(
        ended,
        ping=ended - begun,
        role="replica" if standby else "primary",
        connections=connections,
        active=active,
        waiting=waiting,
        max_connections=most,
        transactions=transactions,
        wal=int(wal) if wal is not None else None,
    )
