"""Whether a server is the shard that the topology means, and has the owners that the topology says."""

from __future__ import annotations

from ..control.agreement import other_tables
from ..control.contract import moved_vectors
from ..errors import EditRefused
from ..topology import Topology
from .connections import Conn, one, rows

_OWNERS = "select keyspace, first_bucket, last_bucket, shard from shardpool.owner order by keyspace, first_bucket"
_HINT = (
    "Undo the change, make it in a copy, and run: shardpool topology apply COPY. "
    "Where the file is right: shardpool init"
)
_EPOCH = """
    select greatest((select max(epoch) from shardpool.owner), (to_jsonb(meta)->>'epoch')::bigint, 0)
    from shardpool.meta
"""
_CONTRACTS = """
    select keyspace, contract->'vectors', case when to_jsonb(c)->'maps'->'epoch' = to_jsonb((select max(epoch)
      from shardpool.owner where owner.keyspace = c.keyspace)) then to_jsonb(c)->'maps'->'digests' end
    from shardpool.hash_contract c
"""
_TABLES = "select coalesce(jsonb_strip_nulls(to_jsonb(meta))->'tables', '{}') from shardpool.meta"


async def check_owners(conn: Conn, topology: Topology, name: str) -> None:
    """Raise `EditRefused` when a shard that is not ahead of the file has other owners, buckets or tables than it says.

    Then the file was changed by hand, or the shard is an old copy: an edit of such a file would hide rows.
    """
    epoch = await one(conn, _EPOCH)
    if epoch > topology.epoch:
        return  # somebody else was first, which is told when the edit is begun
    other = next(other_tables(await one(conn, _TABLES), topology), None)
    if other is not None:
        raise EditRefused(
            f"shard {name} knows another place of a table than the topology file says",
            detail=f"{other}; the shard is at epoch {epoch}, the file at epoch {topology.epoch}.",
            hint=_HINT,
        )
    stored: dict[str, list[str]] = {}
    for keyspace, first, last, shard in await rows(conn, _OWNERS):
        stored.setdefault(keyspace, []).extend([shard] * (last - first + 1))
    contracts = {name: (vectors or [], maps) for name, vectors, maps in await rows(conn, _CONTRACTS)}
    for keyspace in topology.keyspaces.values():
        here = stored.get(keyspace.name)
        if here is None:
            continue
        differing = sum(was != now for was, now in zip(here, keyspace.shard_by_bucket, strict=False))
        differing += abs(len(here) - len(keyspace.shard_by_bucket))
        vectors, maps = contracts.get(keyspace.name, ([], None))
        is_other = maps is not None and keyspace.map_digest not in maps
        if differing or is_other or moved_vectors(vectors, keyspace.partitioning):
            what = f"{differing} bucket{'' if differing == 1 else 's'}" if differing else "some keys"
            raise EditRefused(
                f"shard {name} knows other owners of {what} of keyspace {keyspace.name} than the topology file says",
                detail=f"The shard is at epoch {epoch}, the file at epoch {topology.epoch}: the file was changed by "
                "hand, or the shard was restored from an older copy.",
                hint=_HINT,
            )
