"""What a shard tells of the topologies that were published on it. Pure: SQL text.

`topology.sql` holds the objects that this asks.
"""

from __future__ import annotations

from .own_sql import qualified

PUBLISHED_EPOCH = qualified(
    "SELECT coalesce((pg_catalog.to_jsonb(meta) ->> 'published'::pg_catalog.text)::bigint, 0) FROM shardpool.meta"
)
"""The epoch of the last topology that was published on a shard; asked on sessions of callers, so it costs little."""

EDITIONS = """\
SELECT self.fleet, array_remove(ARRAY[self.shard, self.also], NULL), topology.epoch, topology.digest, topology.since
FROM shardpool.self LEFT JOIN shardpool.topology ON topology.epoch > %s
ORDER BY topology.epoch DESC"""
"""Fleet and names of a shard, and epoch, digest and `since` of each topology that it has after an epoch."""

DOCUMENT = "SELECT document FROM shardpool.topology WHERE epoch = %s AND digest = %s"

PUBLISH_EDIT = "SELECT shardpool.publish_edit(%s, %s)"
"""Publish that of an edit which is begun, by its epoch and digest; it can be done again."""
