"""SQLAlchemy on one shard, through the router's pool of it. SQLAlchemy itself is not a dependency of shardpool.

An engine keeps no connections of its own: each check-out borrows one from the shard's pool, with its limits, its
identity check and its place in `stats()`; each check-in gives it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ._sync.work.handle import Handle

if TYPE_CHECKING:
    from sqlalchemy import Engine


def engine(shard: Handle, *, readonly: bool = False, **options: Any) -> Engine:
    """An SQLAlchemy engine whose connections are those of a shard (`router.shard(name)`) or a route.

    `readonly` takes a replica where there is one within its lag limit. `options` are those of `create_engine`, but for
    the pool's. Errors in borrowing are shardpool's: `ShardUnavailable`, `ShardBusy`, `DeadlineExceeded`.
    """
    made = create_engine(
        "postgresql+psycopg://", creator=lambda: shard.getconn(readonly=readonly), poolclass=NullPool, **options
    )

    def give_back(conn: Any) -> None:
        shard.putconn(conn)

    def end(conn: Any) -> None:
        conn.close()
        shard.putconn(conn)

    # A pool closes a connection through its dialect. https://docs.sqlalchemy.org/en/20/core/internals.html
    made.dialect.do_close = give_back  # type: ignore[assignment, method-assign]
    made.dialect.do_terminate = end  # type: ignore[assignment, method-assign]
    return made
