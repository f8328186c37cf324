"""What `shardpool init` and edits of the topology install on a shard. Pure.

The text has no parameters, so `%` in it stands for itself; a topology's names and values are quoted. `schema.sql`
and `guard.sql` hold what is the same on every shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from ..quoting import quote_literal
from ..succession import succeed
from ..topology import Keyspace, Topology
from .agreement import placement_texts
from .buckets import bucket_function, create_bucket_function
from .contract import contract_with_vectors
from .locks import INSTALL_LOCK_GROUP, LOCK_CLASS
from .own_sql import computing


def install_statements(topology: Topology, shard_name: str) -> list[str]:
    """The statements that make or update a shard's control schema, to be run in order in one transaction.

    Running them again changes nothing. They fail on a server that is another shard, that places keys in another way, or
    whose owners are of a later epoch. Raises `UnknownShard`.
    """
    shard = topology.shard(shard_name)
    return [
        f"SELECT pg_catalog.pg_advisory_xact_lock({LOCK_CLASS}, {INSTALL_LOCK_GROUP})",
        control_sql(),
        f"SELECT shardpool.install_self({quote_literal(topology.fleet)}, {quote_literal(shard.name)})",
        f"SELECT shardpool.install_tables({topology.epoch}, {_tables_json([topology])})",
        *(
            statement
            for keyspace in topology.keyspaces.values()
            for statement in (*_functions(keyspace), *_owners(keyspace, topology.epoch))
        ),
    ]


def edit_statements(topology: Topology, shard_name: str) -> list[str]:
    """The statements that bring a shard's functions to a topology, all but its owners; idempotent, in one transaction.

    What only grows is installed whether or not it is there: contracts of new keyspaces, bucket functions with new pins.
    """
    return [
        f"SELECT shardpool.install_self({quote_literal(topology.fleet)}, {quote_literal(shard_name)})",
        *(statement for keyspace in topology.keyspaces.values() for statement in _functions(keyspace)),
    ]


CURRENT_QUERY = (
    "SELECT pg_catalog.to_regclass('shardpool.history') IS NOT NULL\n"
    "  AND pg_catalog.to_regprocedure('shardpool.accept_tables(jsonb, boolean)') IS NOT NULL\n"
    "  AND pg_catalog.to_regprocedure('shardpool.publish_edit(bigint, text)') IS NOT NULL\n"
    "  AND pg_catalog.to_regprocedure('shardpool.guard_row()') IS NOT NULL"
)
"""Whether a shard has all that an edit calls."""


def changed_owners(old: Topology, renamed: Topology, new: Topology, *, everything: bool = False) -> dict[str, Any]:
    """Keyspace → its owners as `shardpool.install_owners` takes them, of those whose owners are others than before.

    With `everything` of all keyspaces, for a shard that is new. `renamed` is the old topology with the shards' new
    names: entries keep their epoch where bucket and shard are unchanged but for the name.
    """
    carried = succeed(new, renamed)
    return {
        name: json.loads(_owners_json(keyspace))
        for name, keyspace in carried.keyspaces.items()
        if everything
        or name not in old.keyspaces
        or old.keyspaces[name].partitioning != keyspace.partitioning
        or old.keyspaces[name].shard_by_bucket != keyspace.shard_by_bucket
    }


_SCRIPTS = ("schema.sql", "topology.sql", "guard.sql", "transactions.sql", "lookups.sql")


@cache
def control_sql() -> str:
    """The script of what is the same on every shard; it can be run again at any time."""
    return computing("".join(files(__package__).joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS))


def _functions(keyspace: Keyspace) -> Iterator[str]:
    name = quote_literal(keyspace.name)
    contract = quote_literal(json.dumps(contract_with_vectors(keyspace.partitioning)))
    watch = f"SELECT shardpool.watch_buckets({name}, {quote_literal(bucket_function(keyspace.name))})"
    yield f"SELECT shardpool.install_contract({name}, {contract})"
    yield watch
    yield create_bucket_function(keyspace.name, keyspace.partitioning)
    yield watch


def _owners(keyspace: Keyspace, epoch: int) -> Iterator[str]:
    name, digest = quote_literal(keyspace.name), quote_literal(keyspace.map_digest)
    yield f"SELECT shardpool.install_owners({name}, {epoch}, {quote_literal(_owners_json(keyspace))})"
    yield f"SELECT shardpool.install_map({name}, {epoch}, {digest})"


def accept_maps(topologies: Sequence[Topology], *, only: bool) -> list[str]:
    """The statements by which a shard takes routers of these topologies, and with `only` no others; idempotent."""
    maps: dict[str, list[str]] = {}
    for topology in topologies:
        for keyspace in topology.keyspaces.values():
            maps.setdefault(keyspace.name, []).append(keyspace.map_digest)
    return [
        f"SELECT shardpool.accept_maps({quote_literal(name)}, {quote_literal(json.dumps(digests))}, {only})"
        for name, digests in maps.items()
    ] + [f"SELECT shardpool.accept_tables({_tables_json(topologies)}, {only})"]


def _tables_json(topologies: Sequence[Topology]) -> str:
    placements: dict[str, list[str]] = {}
    for topology in topologies:
        for table, text in placement_texts(topology).items():
            placements.setdefault(table, []).append(text)
    return quote_literal(json.dumps(placements))


def _owners_json(keyspace: Keyspace) -> str:
    return json.dumps(
        [
            {"first_bucket": entry.first, "last_bucket": entry.last, "shard": entry.shard, "epoch": entry.epoch}
            for entry in keyspace.owners
        ]
    )
