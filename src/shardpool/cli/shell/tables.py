"""`\\d` and `\\shards`: tables and shards, by the topology and by the servers."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from ..._runtime.tasks import run_all
from ...errors import ShardError, UnknownTable, summary
from ...topology import Keyspace, Sharded, Single, Topology, qualified

if TYPE_CHECKING:
    from .session import ShellSession

# Seconds that a shard has to answer to `\shards`, at most.
_PATIENCE = 5.0
_COLUMNS = """
    select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
           case when a.attnotnull then 'not null' else '' end,
           case when a.attidentity <> '' then 'identity'
                else coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '') end
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where n.nspname = %s and c.relname = %s
    order by a.attnum
"""


def list_tables(session: ShellSession) -> None:
    """Every table of the topology: its keyspace, its key, and where its rows are."""
    topology = session.router.topology
    rows = [(_short(table), *_placed(topology, table)) for table in topology.placements]
    session.printer.rows(["table", "keyspace", "key", "rows"], rows, count=True)


def describe_table(session: ShellSession, name: str) -> None:
    """The columns of a table as a shard has them, its key, and where its rows are."""
    topology = session.router.topology
    table = _folded(name)
    placement = topology.placement(table)
    shard, columns = _columns(session, qualified(table))
    key = placement.key_columns if isinstance(placement, Sharded) else ()
    rows = [(column, *rest, _part_of_key(column, key)) for column, *rest in columns]
    session.printer.rows(["column", "type", "null", "default", "key"], rows)
    keyspace, _, where = _placed(topology, table)
    by = f" by {', '.join(key)}, in keyspace {keyspace}" if key else ""
    click.echo(f"rows: {where}{by}; columns as shard {shard} has them", err=session.printer.is_for_machines)


def _short(table: str) -> str:
    return table.removeprefix("public.")


def _folded(name: str) -> str:
    """A table's name as PostgreSQL reads it: in lower case unless it is quoted."""
    return ".".join(part[1:-1] if part[:1] == part[-1:] == '"' else part.lower() for part in name.split("."))


def _placed(topology: Topology, table: str) -> tuple[str, str, str]:
    match topology.placement(table):
        case Sharded(keyspace, columns):
            space = topology.keyspaces[keyspace]
            return keyspace, ", ".join(columns), f"{_way(space)} on {_names(space.shard_names())}"
        case Single(shard):
            return "", "", f"single: on {shard} alone"
        case _:
            return "", "", "reference: a copy on every shard"


def _way(keyspace: Keyspace) -> str:
    return type(keyspace.partitioning).__name__.lower()


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])} and {len(names) - 6} more"


def _part_of_key(column: str, key: tuple[str, ...]) -> str:
    if column not in key:
        return ""
    return "key" if len(key) == 1 else f"key, part {key.index(column) + 1}"


def _columns(session: ShellSession, table: str) -> tuple[str, list[Any]]:
    """Asks the first shard that answers, of those that have the table."""
    topology = session.router.topology
    match topology.placement(table):
        case Sharded(keyspace):
            names = topology.keyspaces[keyspace].shard_names()
        case Single(shard):
            names = (shard,)
        case _:
            names = session.router.shards
    asked = (session.shard,) if session.shard is not None else names
    for number, name in enumerate(asked, 1):
        try:
            rows = session.router.shard(name).execute(_COLUMNS, table.split(".", 1), timeout=session.timeout).rows
        except ShardError:
            if number == len(asked):
                raise
        else:
            if not rows:
                raise UnknownTable(f"shard {name} has no table {_short(table)}", hint="Run `shardpool check`.")
            return name, rows
    raise AssertionError("a table is on one shard at least")


def list_shards(session: ShellSession) -> None:
    """Every shard, and whether its primary answers now."""
    names = session.router.shards
    outcomes = run_all([partial(_answer, session, name) for name in names])
    rows = []
    for name, (version, error) in zip(names, outcomes, strict=True):
        if error is not None and not isinstance(error, Exception):
            raise error
        answer = version if error is None else ("no", None, "", summary(error))
        rows.append((name, session.router.topology.shards[name].primary.address, *answer))
    session.printer.rows(["shard", "address", "answers", "ms", "PostgreSQL", "error"], rows)


def _answer(session: ShellSession, name: str) -> tuple[str, float, str, str]:
    begun = monotonic()
    limit = min(_PATIENCE, session.timeout or session.router.topology.timeout)
    version = session.router.shard(name).execute("show server_version", timeout=limit).rows[0][0]
    return "yes", round((monotonic() - begun) * 1000, 1), str(version).split(" ")[0], ""
