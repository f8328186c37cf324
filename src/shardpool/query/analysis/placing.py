"""Whether a write stores the very keys by which its rows are placed, and how that is seen where it cannot be told.

What changes a key on its way into a table: triggers, rules, OVERRIDING USER VALUE, generated columns, a varchar(n) that
cuts off spaces. What is sure to change it is refused. Where it only may, the server is asked in the statement itself:
one more expression in RETURNING fails for a row that the shard does not own, and with it the whole statement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from ...control.buckets import bucket_function, owned_multirange
from ...errors import UnsupportedQuery
from ...topology import Topology
from ..text.statement import code_end, enum_name, kind, quoted, verb
from .catalog import Catalog
from .scopes import Occurrence

_MARK = "shardpool: bucket "
_CONFLICT_UPDATE = "ONCONFLICT_UPDATE"


@dataclass(frozen=True, slots=True)
class Check:
    """How the keys that a write stores are seen to be the shard's own.

    `key` are the key's columns as RETURNING names them, `returning` whether the statement has such a clause; `behind`
    is what stands behind the statement's last word. `doubt` says what may change the key.
    """

    keyspace: str
    key: tuple[str, ...]
    returning: bool
    behind: str
    doubt: str

    def clause(self, topology: Topology, shard: str) -> str:
        """What is put behind the statement for a shard: a last column that is NULL, or an error."""
        bucket = f"{bucket_function(self.keyspace)}({', '.join(self.key)})"
        owned = owned_multirange(topology.keyspaces[self.keyspace], shard)
        return (
            f"{',' if self.returning else 'returning'} case"
            f" when coalesce({bucket} operator(pg_catalog.<@) {owned}, false)"
            f" then null else pg_catalog.concat('{_MARK}', {bucket})::pg_catalog.int4 end"
        )

    def added(
        self, query: Any, topology: Topology, shard: str, *, has_params: bool = False, encoding: str = "utf-8"
    ) -> Any:
        """A query with the check; with `has_params` as psycopg takes it, in which a percent sign is written twice."""
        clause, behind = self.clause(topology, shard), self.behind
        if has_params:
            clause, behind = clause.replace("%", "%%"), behind.replace("%", "%%")
        if isinstance(query, sql.Composable):
            return sql.Composed([query, sql.SQL(f"\n{clause}")])
        if isinstance(query, bytes):
            return query.removesuffix(behind.encode(encoding)) + b"\n" + clause.encode(encoding)
        return f"{query.removesuffix(behind)}\n{clause}"

    def failure(self, error: BaseException, what: str) -> UnsupportedQuery | None:
        """What a failure of the check is to the caller; None for any other error."""
        if not isinstance(error, psycopg.errors.InvalidTextRepresentation) or _MARK not in str(error):
            return None
        return UnsupportedQuery(
            f"{what} stores a key that belongs to another shard: nothing was written",
            detail=f"{self.doubt[:1].upper()}{self.doubt[1:]}.",
            hint="Give the row the key that is stored in the end; or pass key=… and that key.",
        )


def check_of(text: str, tree: Any, node: Occurrence, doubts: Sequence[str], topology: Topology) -> Check | None:
    """The check that a statement needs which writes rows of a sharded table at its top; None where it needs none."""
    if not doubts:
        return None
    if kind(tree) == "MergeStmt" or topology.control == "none":
        raise unseen(tree, node, doubts)
    key = tuple(f"{quoted(node.alias)}.{quoted(name)}" for name in node.key_columns)
    returning = tree.HasField("returning_clause")
    return Check(node.keyspace, key, returning, text[code_end(text) :], "; ".join(dict.fromkeys(doubts)))


def unseen(tree: Any, node: Occurrence, doubts: Sequence[str]) -> UnsupportedQuery:
    """The refusal of a write of which it can neither be told nor seen which keys it stores."""
    table = node.table.removeprefix("public.")
    return UnsupportedQuery(
        f"it is not known which partition keys this {verb(tree)} of {table} stores",
        detail="; ".join(dict.fromkeys(doubts)),
        hint="Write by INSERT or UPDATE without WITH; or pass key=…, and let the shards refuse what is not theirs: "
        f"shardpool topology enforce on {table}",
    )


def doubts_of(tree: Any, node: Occurrence, catalog: Catalog) -> list[str]:
    """What may store other keys than the statement gives; raises `UnsupportedQuery` for what surely does."""
    if not node.key_columns:
        return []
    table = catalog.tables[node.table]
    inserts, updates = _does(tree)
    if inserts:
        _refuse_made_by_server(tree, node, catalog)
    # An UPDATE that takes a row to another partition inserts it there.
    stores_anew = inserts or (updates and table.kind == "p")
    doubts = [
        f"trigger {trigger.name} may change {', '.join(node.key_columns)}"
        for trigger in table.triggers
        if (stores_anew and trigger.on_insert) or (updates and trigger.on_update)
        if trigger.may_set(node.key_columns)
    ]
    return doubts + [f"{name} is generated from other columns" for name in _generated(node, catalog) if updates]


def _does(tree: Any) -> tuple[bool, bool]:
    """Whether a write inserts, and whether it updates."""
    match kind(tree):
        case "InsertStmt":
            return True, tree.HasField("on_conflict_clause") and (
                enum_name(tree.on_conflict_clause, "action") == _CONFLICT_UPDATE
            )
        case "UpdateStmt":
            return False, True
        case "MergeStmt":
            commands = {enum_name(clause.merge_when_clause, "command_type") for clause in tree.merge_when_clauses}
            return "CMD_INSERT" in commands, "CMD_UPDATE" in commands
    return False, False


def _refuse_made_by_server(tree: Any, node: Occurrence, catalog: Catalog) -> None:
    """A key that the server makes itself is not known before the row is stored."""
    made = _generated(node, catalog)
    if "OVERRIDING_USER_VALUE" in _overriding(tree):
        table = catalog.tables[node.table]
        made += [column.name for column in table.columns if column.default == "identity"]
    if not set(made).isdisjoint(node.key_columns):
        table_name = node.table.removeprefix("public.")
        raise UnsupportedQuery(
            f"the server makes the partition key of {table_name} itself: {', '.join(made)}",
            detail="Where a row belongs has to be known before it is stored.",
            hint="Give the key in every row, to a column that is neither generated nor overridden.",
        )


def _overriding(tree: Any) -> set[str]:
    if kind(tree) == "InsertStmt":
        return {enum_name(tree, "override")}
    return {enum_name(clause.merge_when_clause, "override") for clause in tree.merge_when_clauses}


def _generated(node: Occurrence, catalog: Catalog) -> list[str]:
    columns = map(catalog.tables[node.table].column, node.key_columns)
    return [column.name for column in columns if column is not None and column.generated]


def refuse_conflicts_elsewhere(clause: Any, node: Occurrence, catalog: Catalog, given: Collection[str]) -> None:
    """Rows that conflict must have the same key: else they can be on other shards, where nobody looks.

    `given` are the columns that have values of the statement; numbers that a server makes for others are new ones.
    """
    if not node.key_columns:
        return
    if clause.HasField("infer") and not clause.infer.conname:
        named: set[str | None] = {element.index_elem.name for element in clause.infer.index_elems}
        what = "the conflict target does not hold"
        wanted = sorted(str(name) for name in named if name)
        missing = [name for name in node.key_columns if name not in named]
    else:
        conname = clause.infer.conname if clause.HasField("infer") else ""
        index, held = next(_keyless(node, catalog, conname, given), ("", frozenset()))
        what = f"the unique index {index}, by which rows conflict, does not hold"
        wanted = sorted(str(name) for name in held if name)
        missing = [name for name in node.key_columns if index and name not in held]
    if missing:
        target = ", ".join(dict.fromkeys([*node.key_columns, *wanted]))
        raise UnsupportedQuery(
            f"{what} the partition key {', '.join(missing)}",
            detail="Rows that conflict with it can be on other shards.",
            hint=f"Use ON CONFLICT ({target}), with such a unique index.",
        )


def _keyless(
    node: Occurrence, catalog: Catalog, name: str, given: Collection[str]
) -> Iterator[tuple[str, frozenset[str | None]]]:
    """The unique indexes, of that name where one is given, that do not hold all of the key, nor a column made new."""
    table = catalog.tables[node.table]
    new = {column.name for column in table.columns if _is_made_new(column.default or "") and column.name not in given}
    for index, held in table.unique:
        if name in ("", index) and not held.issuperset(node.key_columns) and held.isdisjoint(new):
            yield index, held


def _is_made_new(default: str) -> bool:
    return default == "identity" or default.startswith(("nextval(", "gen_random_uuid(", "uuidv7("))
