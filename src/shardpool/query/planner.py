"""Statement and topology → the shard that can answer it, or `UnsupportedQuery`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UnsupportedQuery
from ..topology import Reference, Sharded, Single, Topology
from .statement import Statement, parse

# Functions whose answer depends on which server runs them, or that read tables that are not named in the statement.
_RUNS_SQL = frozenset(
    "ts_rewrite ts_stat dblink query_to_xml table_to_xml cursor_to_xml schema_to_xml database_to_xml "
    "query_to_xml_and_xmlschema table_to_xml_and_xmlschema schema_to_xml_and_xmlschema "
    "database_to_xml_and_xmlschema".split()
)
_STATEFUL = _RUNS_SQL | frozenset(
    "nextval currval lastval setval current_setting set_config txid_current pg_current_xact_id pg_backend_pid "
    "inet_server_addr inet_server_port pg_postmaster_start_time pg_is_in_recovery pg_notify ts_stat dblink "
    "pg_relation_size pg_table_size pg_total_relation_size pg_indexes_size pg_database_size pg_stat_get_numscans "
    "query_to_xml table_to_xml cursor_to_xml schema_to_xml database_to_xml query_to_xmlschema table_to_xmlschema "
    "query_to_xml_and_xmlschema table_to_xml_and_xmlschema schema_to_xml_and_xmlschema "
    "database_to_xml_and_xmlschema schema_to_xmlschema database_to_xmlschema cursor_to_xmlschema".split()
)
_STATEFUL_PREFIXES = ("pg_advisory", "pg_try_advisory", "lo_", "pg_stat_", "pg_read_", "pg_ls_", "pg_lo")


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a statement goes: `shard`, or any shard at all when it is None. `functions` still have to be built in."""

    shard: str | None
    functions: frozenset[str]


def plan(sql: str, topology: Topology) -> Plan:
    """The plan of one statement (`$n` placeholders) that names no key; pure.

    Raises `UnsupportedQuery`, `UnknownTable`, `psycopg.errors.SyntaxError`.
    """
    statements = parse(sql)
    if len(statements) != 1:
        raise UnsupportedQuery(
            f"{len(statements)} statements where one was expected",
            hint="Call execute() once for each, or run them on a connection of one shard.",
        )
    statement = statements[0]
    if statement.kind == "other":
        raise UnsupportedQuery(
            f"{statement.verb} is not routed by its tables",
            hint="Run it on every shard with scatter(), or on one with shard(name).execute().",
        )
    return Plan(_shard(statement, topology), statement.functions)


def _shard(statement: Statement, topology: Topology) -> str | None:
    for table in sorted(statement.reads | statement.writes):
        _refuse_catalogs(table)
    placements = {table: topology.placement(table) for table in sorted(statement.reads | statement.writes)}
    for table, placement in placements.items():
        if isinstance(placement, Sharded):
            raise UnsupportedQuery(
                f"{table} is sharded by {', '.join(placement.key_columns)}, and no key was given",
                detail="Its rows are on several shards; SQL over all of them is not planned yet.",
                hint="Pass key=… for one shard, or scatter() to run it on each shard by itself.",
            )
    references = [table for table, placement in placements.items() if isinstance(placement, Reference)]
    _refuse_reference_writes(statement, references)
    shards = {placement.shard: table for table, placement in placements.items() if isinstance(placement, Single)}
    if len(shards) > 1:
        raise UnsupportedQuery(
            "the single tables of this statement are on different shards",
            detail=", ".join(f"{table} is on {shard}" for shard, table in shards.items()),
            hint="Read them one by one.",
        )
    runs_sql = {name for name in statement.functions if name.removeprefix("pg_catalog.") in _RUNS_SQL}
    _refuse_stateful(runs_sql if shards else statement.functions)
    return next(iter(shards), None)


def _refuse_catalogs(table: str) -> None:
    if table.startswith(("pg_catalog.", "information_schema.", "pg_")):
        raise UnsupportedQuery(
            f"{table} tells of one server only",
            hint="Ask every shard with scatter(), or one with shard(name).execute().",
        )


def _refuse_reference_writes(statement: Statement, references: Iterable[str]) -> None:
    for table in references:
        if table in statement.writes or statement.locks:
            what = statement.verb if table in statement.writes else f"{statement.verb} … FOR UPDATE"
            raise UnsupportedQuery(
                f"{what} of the reference table {table} has to reach its copy on every shard",
                hint="Run it with scatter(): one transaction per shard, not one over all of them.",
            )


def _refuse_stateful(functions: Iterable[str]) -> None:
    for function in sorted(functions):
        name = function.removeprefix("pg_catalog.")
        if name in _STATEFUL or name.startswith(_STATEFUL_PREFIXES):
            raise UnsupportedQuery(
                f"{name}() answers for one server only",
                hint="Name the shard: shard(name).execute(), or ask all with scatter().",
            )


def refuse_unknown_functions(functions: Iterable[str], built_in: frozenset[str]) -> None:
    """Raise `UnsupportedQuery` for a function that is not PostgreSQL's own: its body may read any table."""
    for function in sorted(functions):
        if function.removeprefix("pg_catalog.") not in built_in:
            raise UnsupportedQuery(
                f"{function}() is not a function of PostgreSQL itself",
                detail="It may read tables whose rows are on other shards.",
                hint="Pass key=…, or name the shard: shard(name).execute().",
            )
