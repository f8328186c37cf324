"""Which buckets of a shard hold rows: those that an edit cannot give away."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..control.rows import occupied_query
from ..errors import EditRefused
from ..quoting import quote_table
from ..topology import Topology
from .connections import connected, one, rows
from .edit_plan import Lost


@dataclass(frozen=True, slots=True)
class Occupied:
    """Buckets by keyspace, and what lies in them by table."""

    buckets: Mapping[str, Collection[int]]
    tables: tuple[Lost, ...]

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def __str__(self) -> str:
        return "; ".join(map(str, self.tables))


async def occupied_buckets(topology: Topology, shard: str, timeout: float = 60.0) -> Occupied:
    """The buckets that the shard owns and that hold rows there; reads its tables. Raises `ScatterError`."""
    topology.shard(shard)
    if topology.control == "none":
        raise EditRefused(
            "control: none: the shards carry no shardpool schema, and cannot count by bucket",
            hint="Set control: required, and run: shardpool init",
        )
    buckets_by_table: dict[str, set[int]] = {}
    tables = []
    async with connected({shard: topology}, timeout) as conns:
        conn = conns[shard]
        for keyspace in topology.keyspaces.values():
            if shard not in keyspace.owning_shards:
                continue
            for table in keyspace.tables:
                if not await one(conn, "select pg_catalog.to_regclass(%s) is not null", (quote_table(table),)):
                    continue
                counts = await rows(conn, occupied_query(keyspace, table, shard))
                buckets_by_table.setdefault(keyspace.name, set()).update(bucket for bucket, _ in counts)
                if counts:
                    tables.append(Lost(shard, table, sum(count for _, count in counts), len(counts)))
    return Occupied(buckets_by_table, tuple(tables))
