"""The fence of a table: the trigger that refuses rows for which nobody would look on the shard. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..quoting import quote_ident, quote_literal, quote_table
from ..topology import Keyspace, Sharded, Single, Topology
from .buckets import bucket_of, owned_buckets
from .guard import moves_of, multirange

GIVEN_AWAY = "RS001"
"""The SQLSTATE with which a shard refuses a row of a bucket that it has given away."""

FENCE = "shardpool_fence"
"""The trigger that refuses rows for which nobody would look on the shard, on every table that it has given away."""

FENCE_BY_EVENT = {"INSERT": FENCE, "UPDATE": f"{FENCE}_update"}
"""The two triggers of a fence: only that of UPDATE can look at what a row was."""

FENCED_QUERY = (
    "SELECT pg_catalog.format('%s.%s', n.nspname, c.relname), t.tgnargs > 1 FROM pg_catalog.pg_trigger t\n"
    "JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace\n"
    f"WHERE t.tgname = '{FENCE}' AND t.tgparentid = 0"
)
"""The qualified names of the tables that have a fence, each with whether it was asked for by `enforce`."""


def fence_statement(topology: Topology, table: str, shard_name: str, *, enforced: bool = False) -> str:
    """The statements that fence a table of a shard: only rows come in that the topology looks for there.

    Rows are looked at when they are stored, after all that may have changed their key; updated ones where it is
    another. `enforced` is kept by the fence for those who draw it anew.

    What is handed over comes in on both of its shards: who has it is asked of the guard. Where the topology looks for
    every row, it takes a fence away. Waits for the writers that are at work on the table, and holds
    up those that come while it waits.
    """
    columns: tuple[str, ...] = ()
    handed = any(move.state == "guarded" and move.target == shard_name for move in moves_of(topology, table))
    match topology.placements.get(table):
        case Sharded(keyspace, columns):
            foreign = _foreign(topology.keyspaces[keyspace], columns, shard_name)
            changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in map(quote_ident, columns))
            conditions = {"INSERT": f" WHEN ({foreign})", "UPDATE": f" WHEN (({changed}) AND {foreign})"}
        case Single(shard) if shard != shard_name and not handed:
            conditions = {"INSERT": "", "UPDATE": ""}
        case _:
            return unfence_statement(table)
    arguments = quote_literal(str(topology.epoch)) + (", 'enforced'" if enforced else "")
    return ";\n".join(
        f"CREATE OR REPLACE TRIGGER {FENCE_BY_EVENT[event]} AFTER {event} ON {quote_table(table)}\n"
        f"FOR EACH ROW{when} EXECUTE FUNCTION shardpool.refuse_row({arguments})"
        for event, when in conditions.items()
    )


def unfence_statement(table: str) -> str:
    """The statements that take the fence of a table away."""
    names = FENCE_BY_EVENT.values()
    return ";\n".join(f"DROP TRIGGER IF EXISTS {name} ON {quote_table(table)}" for name in names)


def _foreign(keyspace: Keyspace, columns: Sequence[str], shard_name: str) -> str:
    """Whether a new row is not the shard's: a key that nobody owns has no bucket, and is not its own either.

    A row without a key is nobody's by any topology, and none of the fence's business.
    """
    whole = " AND ".join(f"NEW.{quote_ident(column)} IS NOT NULL" for column in columns)
    expression = bucket_of(keyspace, columns, "NEW.")
    handed = [move.buckets for move in keyspace.moves if move.state == "guarded" and move.target == shard_name]
    mine = multirange([*owned_buckets(keyspace, shard_name), *(entry for ranges in handed for entry in ranges)])
    return f"{whole} AND NOT coalesce({expression} <@ {mine}, false)"
