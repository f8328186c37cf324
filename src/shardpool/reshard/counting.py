"""How much each bucket of a keyspace has, and what its rows add up to. Reads the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..control.buckets import bucket_of
from ..operations.connections import Conn, connected, rows
from ..quoting import quote_ident, quote_table
from ..topology import Keyspace, Topology
from .tables import MovedTable, column_list, read_table

By = Literal["rows", "bytes", "buckets"]

# Seconds in which all rows of a keyspace are read.
_READING = 3600.0
# Bytes of a row beside its columns.
_ROW = 28


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of a table on a shard; `checksum` is the sum of the hashes of its rows. -1: rows without a bucket."""

    shard: str
    table: str
    bucket: int
    rows: int
    checksum: str
    owned: bool


async def checksums(topology: Topology, keyspace: Keyspace, timeout: float = _READING) -> list[Bucket]:
    """Each bucket of each table on each shard that has rows of it, its own or not. Raises `ScatterError`."""

    async def of(shard: str, conn: Conn) -> list[Bucket]:
        await conn.execute("set timezone = 'UTC'")
        buckets = []
        for name, columns in keyspace.tables.items():
            table = await read_table(conn, name)
            if table is None:
                continue
            query = (
                "SELECT coalesce(bucket, -1), count(*), sum(pg_catalog.hashtextextended(line, 0))::text FROM (\n"
                f"  SELECT {bucket_of(keyspace, columns)} AS bucket, ROW({column_list(table.columns)})::text AS line\n"
                f"  FROM {quote_table(name)} OFFSET 0) AS found GROUP BY bucket ORDER BY bucket"
            )
            for bucket, count, total in await rows(conn, query):
                owned = bucket >= 0 and keyspace.shard_by_bucket[bucket] == shard
                buckets.append(Bucket(shard, name, bucket, count, total, owned))
        return buckets

    async with connected(dict.fromkeys(topology.shards, topology), timeout) as conns:
        by_shard: Mapping[str, list[Bucket]] = await conns.on(conns.names, of, "reading the rows")
    return [bucket for buckets in by_shard.values() for bucket in buckets]


async def weights(topology: Topology, keyspace: Keyspace, by: By, timeout: float = _READING) -> list[float]:
    """What each bucket of a keyspace has, by its number: of all tables, on the shard that owns it.

    `bytes` are those of its rows as they are stored, without indexes and what moved rows have left free: else what has
    given rows away would have to give more. Raises `ScatterError`.
    """
    weight = [0.0] * keyspace.partitioning.bucket_count
    if by == "buckets":
        return [1.0] * len(weight)

    async def of(shard: str, conn: Conn) -> dict[int, float]:
        sums: dict[int, float] = {}
        for name, columns in keyspace.tables.items():
            table = await read_table(conn, name)
            if table is None:
                continue
            summed = "count(*)" if by == "rows" else _stored(table)
            query = f"SELECT {bucket_of(keyspace, columns)} AS bucket, {summed} FROM {quote_table(name)} GROUP BY 1"
            for bucket, size in await rows(conn, query):
                if bucket is not None and keyspace.shard_by_bucket[bucket] == shard:
                    sums[bucket] = sums.get(bucket, 0.0) + float(size)
        return sums

    async with connected(dict.fromkeys(topology.shards, topology), timeout) as conns:
        by_shard = await conns.on(conns.names, of, f"counting {by}")
    for sums in by_shard.values():
        for bucket, size in sums.items():
            weight[bucket] += size
    return weight


def _stored(table: MovedTable) -> str:
    """The bytes of rows without reading what is stored apart."""
    sizes = " + ".join(f"coalesce(pg_catalog.pg_column_size({quote_ident(column.name)}), 0)" for column in table.stored)
    return f"sum({_ROW} + {sizes})"
