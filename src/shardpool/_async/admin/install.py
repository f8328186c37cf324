"""`shardpool init`: the `shardpool` schema on every shard, once, whoever else is doing the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.tasks import async_run_all
from ..._runtime.watchdog import Watch
from ...config import document
from ...control.buckets import held_buckets
from ...control.identity import CONTROL_VERSION, IDENTITY_QUERY, check_identity
from ...control.install import install_statements
from ...control.rows import misplaced_rows_query
from ...errors import InitRefused, ScatterError
from ...quoting import quote_table
from ...topology import Keyspace, Topology

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet


class _Candidate:
    """One shard that is being installed on: its connection, in a transaction that is not yet committed."""

    def __init__(self, fleet: AsyncFleet, topology: Topology, name: str, deadline: Deadline) -> None:
        self.name = name
        self.outcome = ""
        self._fleet = fleet
        self._topology = topology
        self._deadline = deadline
        self._conn: AsyncConnection[Any] | None = None
        self._watch: Watch | None = None

    async def prepare(self) -> None:
        """Install and look whether all is well. On a connection of its own: the pools would refuse the bare server."""
        self._conn = conn = await self._fleet.dialer.dial(self._topology, self.name, self._deadline)
        self._watch = self._fleet.watchdog.watch(conn, self._deadline)
        await conn.set_autocommit(False)
        self.outcome = await _install(conn, self._topology, self.name)

    async def commit(self) -> None:
        if self._conn is not None:
            await self._conn.commit()

    async def close(self) -> None:
        """End the connection; what was not committed is rolled back."""
        if self._conn is not None and self._watch is not None:
            self._fleet.watchdog.release(self._watch)
            await self._conn.close()


async def init(fleet: AsyncFleet, timeout: float) -> dict[str, str]:
    """See `AsyncRouter.init`."""
    fleet.check_usable()
    topology = fleet.topology
    deadline = deadline_after(timeout)
    shards = [_Candidate(fleet, topology, name, deadline) for name in topology.shards]
    try:
        await _on_all(shards, [shard.prepare for shard in shards], "nothing was changed on any shard")
        await _on_all(shards, [shard.commit for shard in shards], "run init again: it completes what is missing")
    finally:
        for shard in shards:
            await shard.close()
    for pools in fleet.snapshot.shards.values():
        for pool in pools.endpoints:
            pool.health.is_well()  # what was refused for want of the schema is tried again at once
    return {shard.name: shard.outcome for shard in shards}


async def _on_all(shards: Sequence[_Candidate], steps: Sequence[Callable[[], Awaitable[None]]], state: str) -> None:
    """One step on every shard, side by side: a shard that refuses keeps the others from being changed."""
    outcomes = await async_run_all(steps)
    failures = {shard.name: error for shard, (_, error) in zip(shards, outcomes, strict=True) if error is not None}
    for error in failures.values():
        if not isinstance(error, Exception):
            raise error
    if failures:
        raise ScatterError(
            f"init failed on {len(failures)} of {len(shards)} shards; {state}", failures=failures
        ) from next(iter(failures.values()))


async def _install(conn: AsyncConnection[Any], topology: Topology, name: str) -> str:
    lock, schema, *statements = install_statements(topology, name)
    await conn.execute(lock)
    before = await _identity(conn)
    if before is not None:
        problem = check_identity(before, topology, name)
        if problem is not None:
            raise InitRefused(f"the server of shard {name} is not to be changed", detail=problem)
    # A newer schema that works with this package is not set back.
    if before is None or before[2] <= CONTROL_VERSION:
        await conn.execute(schema)
    for statement in statements:
        await conn.execute(statement)
    await conn.execute("select shardpool.publish_topology(%s)", (document(topology),))
    for keyspace in topology.keyspaces.values():
        await _refuse_misplaced_rows(conn, topology, keyspace, name)
    return "installed" if before is None else "up to date"


async def _identity(conn: AsyncConnection[Any]) -> Any:
    """The row in which the server says who it is; None where nothing is installed."""
    row = await _one(conn, "select pg_catalog.to_regclass('shardpool.self') is not null")
    return await _one(conn, IDENTITY_QUERY) if row[0] else None


async def _one(conn: AsyncConnection[Any], query: str, params: Sequence[Any] | None = None) -> Any:
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(query, params)
    return await cursor.fetchone()


async def _refuse_misplaced_rows(conn: AsyncConnection[Any], topology: Topology, keyspace: Keyspace, name: str) -> None:
    """Buckets that hold rows are never given away by a change of owners: the rows would be where nobody looks."""
    for table in keyspace.tables:
        exists = await _one(conn, "select pg_catalog.to_regclass(%s) is not null", (quote_table(table),))
        if not exists[0]:
            continue
        query = misplaced_rows_query(keyspace, table, held_buckets(keyspace, name))
        misplaced, _ = await _one(conn, query)
        if misplaced:
            raise InitRefused(
                f"{misplaced} rows of {table.removeprefix('public.')} on shard {name} belong to other shards",
                detail=f"epoch {topology.epoch} gives their buckets of keyspace {keyspace.name} to another owner.",
                hint="Move the rows first, or leave the buckets with this shard.",
            )
