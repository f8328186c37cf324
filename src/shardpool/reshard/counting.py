"""How many rows each bucket of a keyspace has, and what they add up to. Reads the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..control.buckets import bucket_of
from ..operations.connections import Conn, connected, rows
from ..quoting import quote_table
from ..topology import Keyspace, Topology
from .tables import column_list, read_table

# Seconds in which all rows of a keyspace are read.
_READING = 3600.0


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


async def rows_by_bucket(topology: Topology, keyspace: Keyspace, timeout: float = _READING) -> list[float]:
    """The rows of each bucket by its number, of all tables, on the shard that owns it. Raises `ScatterError`."""

    async def of(shard: str, conn: Conn) -> dict[int, int]:
        counts: dict[int, int] = {}
        for name, columns in keyspace.tables.items():
            if await read_table(conn, name) is None:
                continue
            query = f"SELECT {bucket_of(keyspace, columns)} AS bucket, count(*) FROM {quote_table(name)} GROUP BY 1"
            for bucket, count in await rows(conn, query):
                if bucket is not None and keyspace.shard_by_bucket[bucket] == shard:
                    counts[bucket] = counts.get(bucket, 0) + count
        return counts

    async with connected(dict.fromkeys(topology.shards, topology), timeout) as conns:
        by_shard = await conns.on(conns.names, of, "counting rows")
    weight = [0.0] * keyspace.partitioning.bucket_count
    for counts in by_shard.values():
        for bucket, count in counts.items():
            weight[bucket] += count
    return weight
