"""Queries for rows that lie where the topology does not look for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..quoting import quote_ident, quote_table
from ..topology import Keyspace, Sharded, Single, Topology
from .buckets import bucket_function, bucket_of, owned_multirange


def misplaced_rows_query(keyspace: Keyspace, table: str, owned: Sequence[tuple[int, int]]) -> str:
    """A query for one row (misplaced, uncovered), counts of a table's rows on the shard that owns these bucket ranges.

    Misplaced rows have a bucket that is not among them; uncovered rows have none: no router would find them. It reads
    the whole table, at about 1 µs a row of a bigint key. `table` is a qualified name of the keyspace's tables; ranges
    include both ends.
    """
    columns = ", ".join(quote_ident(column) for column in keyspace.tables[table])
    mine = "{" + ",".join(f"[{first},{last}]" for first, last in owned) + "}"
    # OFFSET 0 keeps the bucket from being computed once for each place where it is named.
    buckets = f"SELECT {bucket_function(keyspace.name)}({columns}) AS bucket FROM {quote_table(table)} OFFSET 0"
    return (
        f"SELECT count(*) FILTER (WHERE NOT bucket <@ int4multirange '{mine}') AS misplaced,\n"
        "  count(*) FILTER (WHERE bucket IS NULL) AS uncovered\n"
        f"FROM ({buckets}) AS placed"
    )


def misplaced_by_change_query(old: Keyspace, new: Keyspace, table: str, shard_name: str) -> str:
    """A query for one row (rows, buckets): a table's rows on a shard that owns them in `old` and not in `new`.

    It reads the whole table, at about 1 µs a row of a bigint key, and twice that where pins or bounds change.
    """
    was = bucket_of(old, old.tables[table])
    before, after = owned_multirange(old, shard_name), owned_multirange(new, shard_name)
    now = "was" if old.partitioning == new.partitioning else bucket_of(new, old.tables[table])
    placed = f"SELECT *, {now} AS now FROM (SELECT *, {was} AS was FROM {quote_table(table)} OFFSET 0) AS placed"
    return (
        "SELECT count(*), count(DISTINCT coalesce(now, -1))\n"
        f"FROM ({placed}\n  WHERE was <@ {before} OFFSET 0) AS owned\n"
        f"WHERE NOT coalesce(now <@ {after}, false)"
    )


def unplaced_rows_query(topology: Topology, table: str, shard_name: str) -> str | None:
    """A query for the number of a table's rows on a shard for which the topology would not look there; None: none."""
    match topology.placements.get(table):
        case Sharded(keyspace, columns):
            space = topology.keyspaces[keyspace]
            owned = f"{bucket_of(space, columns)} <@ {owned_multirange(space, shard_name)}"
            return f"SELECT count(*) FROM {quote_table(table)} WHERE NOT coalesce({owned}, false)"
        case Single(shard) if shard != shard_name:
            return f"SELECT count(*) FROM {quote_table(table)}"
        case _:
            return None


def occupied_query(keyspace: Keyspace, table: str, shard_name: str) -> str:
    """A query for rows (bucket, count): the buckets of a shard that hold rows of a table. It reads the whole table."""
    bucket = bucket_of(keyspace, keyspace.tables[table])
    return (
        f"SELECT bucket, count(*) FROM (SELECT {bucket} AS bucket FROM {quote_table(table)} OFFSET 0) AS placed\n"
        f"WHERE bucket <@ {owned_multirange(keyspace, shard_name)} GROUP BY bucket"
    )
