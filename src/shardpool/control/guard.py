"""The SQL by which rows move while they are used: what sessions call, and the fences of tables whose rows move. Pure.

`guard.sql` holds the objects that this calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..quoting import quote_ident, quote_literal, quote_table
from ..topology import Keyspace, RunningMove, Sharded, Topology
from .buckets import bucket_of
from .own_sql import EPOCH_LOCK_CLASS, OWN_EPOCH

DECLARE = "SELECT shardpool.declare(%s)"
REDECLARE = "SELECT shardpool.redeclare(%s, %s)"
GUARD = "SELECT shardpool.guard(%s)"
GUARD_READ = "SELECT shardpool.guard_read(%s)"
GUARD_SESSION = "SELECT shardpool.guard_session(%s)"
RELEASE_GUARD = "SELECT shardpool.release_guard(%s)"

RAISE_MIN_EPOCH = "UPDATE shardpool.meta SET min_epoch = %s WHERE min_epoch < %s"

SEES_SESSIONS = (
    "SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage') "
    "OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)"
)
"""Whether the sessions of others can be seen: who may not finds nobody, whoever is there."""

_SESSIONS = f"""\
WITH declared AS MATERIALIZED (
  SELECT pid, min(objid::bigint) AS epoch FROM pg_catalog.pg_locks
  WHERE locktype = 'advisory' AND classid = {EPOCH_LOCK_CLASS} AND objsubid = 2 AND granted AND pid IS NOT NULL
    AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  GROUP BY pid
), session AS MATERIALIZED (
  SELECT pid, usename, client_addr::text AS address, application_name, state, xact_start
  FROM pg_catalog.pg_stat_activity
  WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
    AND coalesce(backend_type, '') NOT IN ('walsender', 'parallel worker', 'logical replication worker',
      'logical replication apply worker', 'logical replication parallel worker', 'logical replication tablesync worker')
)
SELECT pid, usename, address, application_name, state, xact_start,
  (SELECT epoch FROM declared WHERE declared.pid = session.pid)
FROM session
WHERE (usename = ANY (%(roles)s) OR usename IN (
    SELECT other.usename FROM session AS other JOIN declared USING (pid) WHERE epoch < {OWN_EPOCH}))
  AND pid NOT IN (SELECT pid FROM declared WHERE epoch >= %(epoch)s)
ORDER BY pid"""

ROUTER_SESSIONS = _SESSIONS.replace("%(epoch)s", str(OWN_EPOCH))
"""The sessions of routers, as `STALE_SESSIONS` has those that work by an older epoch."""

STALE_SESSIONS = _SESSIONS
"""The sessions of routers that work by an epoch below `epoch`, or by none: pid, role, address, application, state,
begin of the transaction, and the epoch that they declare.

Roles are `roles`, and those of sessions that declare an epoch just now. NOT IN is hashed: with 1,000 sessions it takes
6 ms, as a join of the two 85. Reading pg_locks stops the lock table for a moment, so it is asked every 50 ms at most.
What serves replication declares nothing and routes nothing. A `backend_type` that may not be seen is taken for that of
a session: who sees nothing finds everybody.
"""

STALE_FENCE = "shardpool_stale"
CHANGE_FENCE = "shardpool_change"
ROW_GUARD = "shardpool_guard"
FILTER = "shardpool_filter"


def stale_fence(table: str, epoch: int) -> str:
    """The statements by which a table refuses whoever writes it and declares no epoch, or one below `epoch`."""
    older = f"coalesce(nullif(current_setting('shardpool.epoch', true), ''), '0')::bigint < {epoch}"
    name, argument = quote_table(table), quote_literal(str(epoch))
    return (
        f"CREATE OR REPLACE TRIGGER {STALE_FENCE} BEFORE INSERT OR UPDATE OR DELETE ON {name} FOR EACH STATEMENT\n"
        f"WHEN ({older}) EXECUTE FUNCTION shardpool.refuse_stale({argument})"
    )


def lift_stale_fence(table: str) -> str:
    """The statement that takes `stale_fence` away."""
    return f"DROP TRIGGER IF EXISTS {STALE_FENCE} ON {quote_table(table)}"


def row_guard(topology: Topology, move: RunningMove, table: str) -> str:
    """The statements by which a table asks for each row of a move that is written whether the shard owns it."""
    name, of = quote_table(table), f"{ROW_GUARD}_{move.number}"
    call = f"EXECUTE FUNCTION shardpool.guard_row({quote_literal(str(move.number))})"
    placement = topology.placements[table]
    statements = []
    for suffix, events, row in (("", "INSERT OR UPDATE", "NEW."), ("_delete", "DELETE", "OLD.")):
        when = ""
        if isinstance(placement, Sharded):
            bucket = bucket_of(topology.keyspaces[placement.keyspace], placement.key_columns, row)
            when = f"WHEN ({bucket} <@ {multirange(move.buckets)})\n"
        statements.append(
            f"CREATE OR REPLACE TRIGGER {of}{suffix} BEFORE {events} ON {name} FOR EACH ROW\n{when}{call}"
        )
    return ";\n".join(statements)


def lift_row_guard(move: RunningMove, table: str) -> str:
    """The statements that take `row_guard` away."""
    name, of = quote_table(table), f"{ROW_GUARD}_{move.number}"
    return f"DROP TRIGGER IF EXISTS {of} ON {name};\nDROP TRIGGER IF EXISTS {of}_delete ON {name}"


def change_fence(topology: Topology, table: str, shard_name: str) -> str:
    """The statements by which a table refuses TRUNCATE, and keys that go from what moves to what stays, or back.

    Replication sends neither as what it is: rows would be left behind, or lost.
    """
    moves = [move for move in moves_of(topology, table) if shard_name in (move.source, move.target)]
    if not moves:
        return lift_change_fence(table)
    name, argument = quote_table(table), quote_literal(", ".join(str(move.number) for move in moves))
    statements = [
        f"CREATE OR REPLACE TRIGGER {CHANGE_FENCE}_truncate BEFORE TRUNCATE ON {name} FOR EACH STATEMENT\n"
        f"EXECUTE FUNCTION shardpool.refuse_change({argument})"
    ]
    placement = topology.placements[table]
    if isinstance(placement, Sharded):
        space = topology.keyspaces[placement.keyspace]
        columns = [quote_ident(column) for column in placement.key_columns]
        changed = " OR ".join(f"NEW.{column} IS DISTINCT FROM OLD.{column}" for column in columns)
        now, was = (_move_case(space, moves, placement.key_columns, row) for row in ("NEW.", "OLD."))
        statements.append(
            f"CREATE OR REPLACE TRIGGER {CHANGE_FENCE} BEFORE UPDATE ON {name} FOR EACH ROW\n"
            f"WHEN (({changed}) AND ({now}) IS DISTINCT FROM ({was}))\n"
            f"EXECUTE FUNCTION shardpool.refuse_change({argument})"
        )
    return ";\n".join(statements)


def _move_case(space: Keyspace, moves: Sequence[RunningMove], key_columns: Sequence[str], row: str) -> str:
    bucket = bucket_of(space, key_columns, row)
    cases = " ".join(f"WHEN {bucket} <@ {multirange(move.buckets)} THEN {move.number}" for move in moves)
    return f"CASE {cases} ELSE 0 END"


def lift_change_fence(table: str) -> str:
    """The statements that take `change_fence` away."""
    name = quote_table(table)
    return f"DROP TRIGGER IF EXISTS {CHANGE_FENCE} ON {name};\nDROP TRIGGER IF EXISTS {CHANGE_FENCE}_truncate ON {name}"


def filter_statements(topology: Topology, table: str, shard_name: str) -> str:
    """The statements by which a shard leaves out, of all that is sent of a sharded table, what no move brings to it.

    UPDATE and DELETE are looked at as well: a row of the shard's own may have the same primary key as one of those.
    """
    placement = topology.placements[table]
    assert isinstance(placement, Sharded)
    space = topology.keyspaces[placement.keyspace]
    brought = [ranges for move in space.moves if shard_name in (move.source, move.target) for ranges in move.buckets]
    if not brought:
        return lift_filter(table)
    name = quote_table(table)
    return ";\n".join(
        f"CREATE OR REPLACE TRIGGER {FILTER}_{event.lower()} BEFORE {event} ON {name} FOR EACH ROW\n"
        f"WHEN (NOT coalesce({bucket_of(space, placement.key_columns, row)} <@ {multirange(brought)}, false))\n"
        f"EXECUTE FUNCTION shardpool.leave_out();\n"
        f"ALTER TABLE {name} ENABLE REPLICA TRIGGER {FILTER}_{event.lower()}"
        for event, row in (("INSERT", "NEW."), ("UPDATE", "OLD."), ("DELETE", "OLD."))
    )


def lift_filter(table: str) -> str:
    """The statements that take `filter_statements` away."""
    return ";\n".join(
        f"DROP TRIGGER IF EXISTS {FILTER}_{event} ON {quote_table(table)}" for event in ("insert", "update", "delete")
    )


def multirange(ranges: Sequence[tuple[int, int]]) -> str:
    """Ranges of buckets, both ends included, as a constant of SQL."""
    text = ",".join(f"[{first},{last}]" for first, last in ranges)
    return f"'{{{text}}}'::pg_catalog.int4multirange"


def moves_of(topology: Topology, table: str) -> tuple[RunningMove, ...]:
    """The moves that move rows of a table."""
    placement = topology.placements.get(table)
    if isinstance(placement, Sharded):
        return topology.keyspaces[placement.keyspace].moves
    return tuple(move for move in topology.table_moves if move.table == table)


def tables_of(topology: Topology, move: RunningMove) -> Iterator[str]:
    """The qualified names of the tables whose rows a move moves."""
    if move.table is not None:
        yield move.table
    elif move.keyspace is not None:
        yield from topology.keyspaces[move.keyspace].tables
