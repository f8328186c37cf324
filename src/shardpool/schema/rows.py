"""What a file that runs on every shard would do to rows: multiply them, or give each copy its own. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..query.analysis.purity import names_a_time
from ..query.text.statement import inner, kind, strings, walk
from ..topology import Placement, Reference, Sharded, Topology, qualified
from .files import Migration, MigrationBlock
from .steps import parsed, statements

HINT = (
    "Let the router place them: `-- shard: route`, in a file of its own; or, if each shard is to do it as it stands: "
    "`-- shard: rows=each`."
)
_VOLATILE = frozenset(
    "now clock_timestamp statement_timestamp transaction_timestamp timeofday random random_normal gen_random_uuid "
    "uuidv4 uuidv7 uuid_generate_v1 uuid_generate_v1mc uuid_generate_v4 nextval txid_current pg_current_xact_id "
    "gen_random_bytes".split()
)
_SERIALS = frozenset("serial bigserial smallserial serial2 serial4 serial8".split())
_ADD_COLUMN = 1
_DEFAULT, _IDENTITY = 3, 4


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What a statement on a line of the file would do."""

    line: int
    message: str


def row_problems(migration: Migration, topology: Topology, shards: int) -> Iterator[RowProblem]:
    """What is wrong with rows that the file writes on so many `shards`; nothing where it says what is meant."""
    if migration.routed or migration.rows == "each" or shards < 2:
        return
    for block in filter(None, (migration.up, migration.down)):
        yield from _of_block(block, topology)


def _of_block(block: MigrationBlock, topology: Topology) -> Iterator[RowProblem]:
    for text, line in statements(block):
        tree = parsed(text)
        for part in walk(tree) if tree is not None else ():
            message = _problem(part, topology)
            if message is not None:
                yield RowProblem(line, message)


def _problem(part: Any, topology: Topology) -> str | None:
    match kind(part):
        case "InsertStmt":
            return _insert_problem(part, topology)
        case "UpdateStmt" | "DeleteStmt" | "MergeStmt":
            return _reference_problem(part, topology)
        case "AlterTableStmt" if isinstance(_placement(part.relation, topology), Reference):
            added = (cmd.alter_table_cmd for cmd in part.cmds if cmd.alter_table_cmd.subtype == _ADD_COLUMN)
            own = next(filter(None, (_own_default(getattr(cmd, "def").column_def) for cmd in added)), None)
            if own is not None:
                return f"a column of the reference table {_name(part.relation)} with {own} is another on each shard"
    return None


def _insert_problem(insert: Any, topology: Topology) -> str | None:
    placement = _placement(insert.relation, topology)
    if isinstance(placement, Sharded) and not _reads_sharded(insert.select_stmt, topology):
        return f"INSERT into the sharded table {_name(insert.relation)} would put the same rows on every shard"
    return _reference_problem(insert, topology)


def _reference_problem(statement: Any, topology: Topology) -> str | None:
    own = _own_value(statement)
    if own is None or not isinstance(_placement(statement.relation, topology), Reference):
        return None
    return f"{own} would give the reference table {_name(statement.relation)} other rows on each shard"


def _reads_sharded(tree: Any, topology: Topology) -> bool:
    """Whether the rows are made of those of the shard itself."""
    tables = [part for part in walk(tree) if kind(part) == "RangeVar"]
    return any(isinstance(_placement(table, topology), Sharded) for table in tables)


def _own_default(column: Any) -> str | None:
    """What gives each shard its own values for a new column."""
    if set(strings(column.type_name.names)) & _SERIALS:
        return "a sequence"
    for node in column.constraints:
        if node.constraint.contype == _IDENTITY:
            return "an identity"
        if node.constraint.contype == _DEFAULT and (own := _own_value(node.constraint.raw_expr)):
            return f"{own} as its default"
    return None


def _own_value(tree: Any) -> str | None:
    """What in a tree each server, or each moment, has a value of its own for."""
    for part in walk(tree):
        if kind(part) == "FuncCall" and strings(part.funcname)[-1] in _VOLATILE:
            return f"{strings(part.funcname)[-1]}()"
        if kind(part) == "SQLValueFunction":
            return "the time or the user"
        if kind(part) == "TypeCast" and kind(inner(part.arg)) == "A_Const":
            text = inner(part.arg).sval.sval
            if names_a_time(text.encode()):
                return f"'{text}'"
    return None


def _placement(relation: Any, topology: Topology) -> Placement | None:
    return topology.placements.get(qualified(_name(relation)))


def _name(relation: Any) -> str:
    schema = relation.schemaname
    return f"{schema}.{relation.relname}" if schema and schema != "public" else str(relation.relname)
