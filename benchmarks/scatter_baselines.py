"""Scatter without the library: one shard after another, on threads, by SQLAlchemy's sharding, by asyncio.gather."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

import psycopg2.pool
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from .fleet import Database

AUTOCOMMIT = {"autocommit": True}
Ask = Callable[[], Any]
AskAsync = Callable[[], Awaitable[Any]]


@contextmanager
def one_after_another(databases: Sequence[Database], query: str, params: Sequence[Any]) -> Iterator[Ask]:
    """psycopg pools, in a loop."""
    with ExitStack() as stack:
        pools = [stack.enter_context(_pool(database)) for database in databases]

        def ask() -> Any:
            rows = []
            for pool in pools:
                with pool.connection() as conn:
                    rows.append(conn.execute(query, params).fetchall())
            return rows

        yield ask


def _pool(database: Database) -> ConnectionPool[Any]:
    return ConnectionPool(database.conninfo, min_size=1, max_size=1, num_workers=1, kwargs=AUTOCOMMIT, open=True)


@contextmanager
def threads(databases: Sequence[Database], query: str, params: Sequence[Any]) -> Iterator[Ask]:
    """psycopg2's own pools, a thread per shard that stays alive between the calls."""
    pools = [psycopg2.pool.ThreadedConnectionPool(1, 1, database.conninfo) for database in databases]

    def one(pool: Any) -> Any:
        conn = pool.getconn()
        try:
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute(query, params)
                return cursor.fetchall()
        finally:
            pool.putconn(conn)

    with ThreadPoolExecutor(len(pools)) as executor:
        yield lambda: list(executor.map(one, pools))
    for pool in pools:
        pool.closeall()


class _Base(DeclarativeBase):
    pass


class _Item(_Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@contextmanager
def sharded_session(databases: Sequence[Database], key: int) -> Iterator[Ask]:
    """SQLAlchemy's `horizontal_shard`, which asks one shard after another; in autocommit, columns, no objects."""
    engines = {database.name: _engine(database) for database in databases}
    names = list(engines)
    session = sessionmaker(
        class_=ShardedSession,
        shards=engines,
        shard_chooser=lambda mapper, instance, clause=None: names[0],
        identity_chooser=lambda *args, **kwargs: names,
        execute_chooser=lambda context: names,
    )
    statement = select(_Item.id, _Item.name).where(_Item.id == key)

    def ask() -> Any:
        with session() as opened:
            return opened.execute(statement).all()

    try:
        assert len(ask()) == len(databases)
        yield ask
    finally:
        for engine in engines.values():
            engine.dispose()


def _engine(database: Database) -> Engine:
    return create_engine("postgresql+psycopg2://", isolation_level="AUTOCOMMIT", connect_args=dict(database.params))


@asynccontextmanager
async def gathered(
    databases: Sequence[Database], query: str, params: Sequence[Any]
) -> AsyncIterator[tuple[AskAsync, AskAsync]]:
    """psycopg's async pools: all at once by `asyncio.gather`, and one after another."""
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(_async_pool(database)) for database in databases]

        async def one(pool: AsyncConnectionPool[Any]) -> Any:
            async with pool.connection() as conn:
                return await (await conn.execute(query, params)).fetchall()

        async def at_once() -> Any:
            return await asyncio.gather(*map(one, pools))

        async def in_turn() -> Any:
            return [await one(pool) for pool in pools]

        yield at_once, in_turn


def _async_pool(database: Database) -> AsyncConnectionPool[Any]:
    return AsyncConnectionPool(database.conninfo, min_size=1, max_size=1, num_workers=1, kwargs=AUTOCOMMIT, open=False)
