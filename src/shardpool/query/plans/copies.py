"""Writes of reference tables: what each copy is sent so that all of them end with the same values.

A statement that gives the same on every server is sent to all. One that may not (a default, a function, LIMIT) is run
on one shard, and the others are sent the rows that it has made there. See docs/adr/0032-copies-get-the-same-values.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from ...control.settings import are_exact
from ...errors import UnsupportedQuery
from ..analysis.analysis import Analysis
from ..analysis.catalog import Catalog, Column, Table
from ..analysis.purity import first_volatile
from ..analysis.timing import timed
from ..text.statement import deparse, enum_name, expression, inner, is_star, kind, quoted, strings, verb, walk
from ..text.tree import copy
from .aggregates import depends_on_order
from .plan import Copies, Gathered, Plan, Use

_CMD_INSERT = 4
_CONFLICT_UPDATES = 3


def plan_copies(sql: str, tree: Any, analysis: Analysis, uses: tuple[Use, ...]) -> Plan:
    """The plan of a write of a reference table. Raises `UnsupportedQuery`."""
    table = analysis.catalog.tables[analysis.writes[0].table]
    what = f"{verb(tree)} of the reference table {table.name.removeprefix('public.')}"
    if uses or len(analysis.writes) > 1:
        raise UnsupportedQuery(
            f"{what} reads rows that are not on every shard",
            hint="Read them first, and write their values.",
        )
    refusal = _why_not_the_same(what, tree, analysis)
    finish = _finish(tree, table, analysis.catalog) if refusal is not None else ""
    if refusal is not None and not finish:
        raise refusal
    doubtful = refusal is not None or table.has_triggers or any(_is_doubtful(part) for part in walk(tree))
    compared = doubtful and kind(tree) != "DeleteStmt" and _may_return(tree, analysis.catalog)
    if table.has_triggers and not compared and kind(tree) == "MergeStmt":
        raise UnsupportedQuery(
            f"{what}, which has triggers, cannot be seen to give each shard the same",
            hint="Write it by INSERT, UPDATE or DELETE; MERGE tells what it has written since PostgreSQL 17.",
        )
    hidden = len(table.columns) if compared or finish else 0
    text = sql
    if hidden:
        tree = _returning_all(tree, table)
        text = deparse(copy(tree))
    read = tuple({node.table for node in analysis.references})
    mend = _update(table) if compared and are_exact(analysis.catalog.settings) else ""
    copies = Copies(table.name, read, finish, mend, compared)
    time = None if finish else timed(tree)
    return Plan(sql, verb(tree), (), True, Gathered("write", text, hidden=hidden, copies=copies, timed=time))


def _why_not_the_same(what: str, tree: Any, analysis: Analysis) -> UnsupportedQuery | None:
    """Why the statement may give each shard something else; None when it does not."""
    volatile = first_volatile(tree, analysis.catalog, timeless=False) or _volatile_default(tree, analysis)
    if volatile is not None:
        return UnsupportedQuery(
            f"{what} would give each shard its own {volatile}",
            detail="Its copies would differ.",
            hint="Give the column a value in the INSERT of the MERGE, or write it by INSERT … ON CONFLICT."
            if kind(tree) == "MergeStmt"
            else "Pass the value as a parameter, or give the table a primary key that the statement does not change.",
        )
    choice = _choice(tree)
    if choice is not None:
        return UnsupportedQuery(
            f"{what} with {choice} may choose other rows on each shard",
            detail="Its copies would differ.",
            hint="Read the rows first, and write their values; or give the table a primary key.",
        )
    return None


def _is_doubtful(part: Any) -> bool:
    """Whether an expression may hang on the order of rows, or on the moment: it does not often."""
    match kind(part):
        case "FuncCall":
            return strings(part.funcname)[-1] in _BY_ADDING
        case "TypeCast":
            return bool(set(strings(part.type_name.names)) & _TIME_TYPES) and kind(inner(part.arg)) != "A_Const"
    return False


_BY_ADDING = frozenset(
    "sum avg stddev stddev_pop stddev_samp variance var_pop var_samp corr covar_pop covar_samp regr_avgx regr_avgy "
    "regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy".split()
)
_TIME_TYPES = frozenset("date time timetz timestamp timestamptz".split())


def _may_return(tree: Any, catalog: Catalog) -> bool:
    """Whether the statement can tell what it has written: MERGE since PostgreSQL 17, seen by a new function."""
    return kind(tree) != "MergeStmt" or "uuid_extract_version" in catalog.functions


def _returning_all(tree: Any, table: Table) -> Any:
    """The statement with all columns of the rows that it writes, as texts, behind what it returns."""
    tree = copy(tree)
    alias = tree.relation.alias.aliasname or tree.relation.relname
    for column in table.columns:
        target = tree.returning_clause.exprs.add().res_target
        target.val.CopyFrom(expression(written_as(column, f"{quoted(alias)}.{quoted(column.name)}")))
    return tree


# -- rows that one shard has made ------------------------------------------------------------------------------------


def _finish(tree: Any, table: Table, catalog: Catalog) -> str:
    """SQL that writes on another copy the rows that the statement has written on one; empty when there is none.

    It has a parameter for each column of the table: its values as texts.
    """
    if not are_exact(catalog.settings):
        return ""
    rows = _rows(table.columns)
    match kind(tree):
        case "InsertStmt":
            conflict = tree.on_conflict_clause if tree.HasField("on_conflict_clause") else None
            if conflict is None or conflict.action != _CONFLICT_UPDATES:
                return _insert(table)
            assigned = {target.res_target.name for target in conflict.target_list}
            return _upsert(table) if table.key and not assigned & set(table.key) else ""
        case "UpdateStmt":
            assigned = {target.res_target.name for target in tree.target_list}
            return "" if assigned & set(table.key) else _update(table)
        case "DeleteStmt" if table.key:
            return f"DELETE FROM {_name(table)} AS written USING {rows} WHERE {_same_key(table)} {_tell(table)}"
    return ""


def _insert(table: Table) -> str:
    columns = [column for column in table.columns if not column.generated]
    names = ", ".join(quoted(column.name) for column in columns)
    values, rows = ", ".join(map(_value, columns)), _rows(table.columns)
    return (
        f"INSERT INTO {_name(table)} AS written ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {rows}"
        f' ORDER BY made."shardpool number" {_tell(table)}'
    )


def _upsert(table: Table) -> str:
    key = ", ".join(map(quoted, table.key))
    changes = ", ".join(f"{quoted(column.name)} = excluded.{quoted(column.name)}" for column in _changed(table))
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    tell = _tell(table)
    return f"{_insert(table).removesuffix(tell)}ON CONFLICT ({key}) DO {action} {tell}"


def _update(table: Table) -> str:
    if not table.key or not _changed(table):
        return ""
    changes = ", ".join(f"{quoted(column.name)} = {_value(column)}" for column in _changed(table))
    rows = _rows(table.columns)
    return f"UPDATE {_name(table)} AS written SET {changes} FROM {rows} WHERE {_same_key(table)} {_tell(table)}"


def _changed(table: Table) -> list[Column]:
    return [
        column
        for column in table.columns
        if column.name not in table.key and not column.generated and column.default != "identity"
    ]


def _name(table: Table) -> str:
    return ".".join(map(quoted, table.name.split(".", 1)))


def _rows(columns: Sequence[Column]) -> str:
    places = ", ".join(f"pg_catalog.unnest(${number}::pg_catalog.text[])" for number in range(1, len(columns) + 1))
    names = ", ".join(quoted(column.name) for column in columns)
    return f'ROWS FROM ({places}) WITH ORDINALITY AS made ({names}, "shardpool number")'


def _value(column: Column) -> str:
    """A text as the column's type: of any length where a cast would cut what is too long, and storing refuses it."""
    text = f"made.{quoted(column.name)}"
    type_ = uncut(column.type)
    if not column.of_domain:
        return f"{text}::{type_}"
    # The length is the domain's, which a cast cuts to as well: the elements of an array are read as COPY reads them.
    return f"CASE WHEN {text} IS NULL THEN {text}::{type_} ELSE (ARRAY[{text}]::pg_catalog.text::{type_}[])[1] END"


def written_as(column: Column, value: str) -> str:
    """SQL of a value as the text that is read as the same: a cast of bpchar to text leaves out the spaces at its end.

    `value` is written twice where the column is of a domain, which may be one of bpchar.
    """
    if column.of_domain:
        return f"CASE WHEN pg_catalog.num_nulls({value}) = 0 THEN pg_catalog.format('%s', {value}) END"
    return (
        f"pg_catalog.textin(pg_catalog.bpcharout({value}))" if column.type == "bpchar" else f"{value}::pg_catalog.text"
    )


def uncut(type_: str) -> str:
    """The name of a type without the length to which a cast would cut a value."""
    return _OF_A_LENGTH.sub(lambda found: _OF_ANY_LENGTH[found[1]], type_)


_OF_A_LENGTH = re.compile(r"^(character varying|character|bit varying|bit)\(\d+\)")
_OF_ANY_LENGTH = {
    "character varying": "pg_catalog.varchar",
    "character": "pg_catalog.bpchar",
    "bit varying": "pg_catalog.varbit",
    "bit": 'pg_catalog."bit"',
}


def _same_key(table: Table) -> str:
    columns = [column for column in table.columns if column.name in table.key]
    return " AND ".join(f"written.{quoted(column.name)} = {_value(column)}" for column in columns)


def _tell(table: Table) -> str:
    return "RETURNING " + ", ".join(written_as(column, f"written.{quoted(column.name)}") for column in table.columns)


# -- what may differ --------------------------------------------------------------------------------------------------


def _choice(tree: Any) -> str | None:
    """What in a statement leaves it to the server which rows, or in which order, it takes."""
    if kind(tree) == "UpdateStmt" and tree.from_clause:
        return "UPDATE … FROM"
    for part in walk(tree):
        match kind(part):
            case "SelectStmt":
                if part.HasField("limit_count") or part.HasField("limit_offset"):
                    return "LIMIT"
                if any(node.WhichOneof("node") for node in part.distinct_clause):
                    return "DISTINCT ON"
            case "FuncCall":
                if part.HasField("over"):
                    return "a window"
                if depends_on_order(part):
                    return f"{strings(part.funcname)[-1]}()"
            case "JsonArrayAgg" | "JsonObjectAgg":
                return "an aggregate of JSON"
    return None


@dataclass(frozen=True, slots=True)
class Loaded:
    """How rows of some of its columns are loaded into a reference table: `insert` has an array of texts for each."""

    table: str
    insert: str
    copies: Copies
    width: int


def loaded(table: Table, columns: Sequence[str], catalog: Catalog) -> Loaded | None:
    """How rows are loaded that each shard would make otherwise, by its defaults or triggers; None when none would."""
    if not table.has_triggers and _own_default(table, set(columns), catalog) is None:
        return None
    known = {column.name: column for column in table.columns}
    if not are_exact(catalog.settings) or not all(name in known for name in columns):
        return None
    given = [known[name] for name in columns]
    names, values = ", ".join(map(quoted, columns)), ", ".join(map(_value, given))
    insert = (
        f"INSERT INTO {_name(table)} AS written ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {_rows(given)}"
        f' ORDER BY made."shardpool number" {_tell(table)}'
    )
    copies = Copies(table.name, (), _insert(table), _update(table), compared=True)
    return Loaded(table.name.removeprefix("public."), insert, copies, len(table.columns))


def _volatile_default(tree: Any, analysis: Analysis) -> str | None:
    """A default of a column that is not given which may differ from shard to shard."""
    table = analysis.catalog.tables[analysis.writes[0].table]
    given = _given(tree, [column.name for column in table.columns])
    if any(kind(part) == "SetToDefault" for part in walk(tree)):
        given = set()
    if any(_leaves_numbers(part) for part in walk(tree)):
        given -= {column.name for column in table.columns if column.default == "identity"}
    return _own_default(table, given, analysis.catalog)


def _leaves_numbers(part: Any) -> bool:
    """Whether values that are given for identity columns are not stored: OVERRIDING USER VALUE."""
    return kind(part) in ("InsertStmt", "MergeWhenClause") and enum_name(part, "override") == "OVERRIDING_USER_VALUE"


def _own_default(table: Table, given: Set[str], catalog: Catalog) -> str | None:
    for column in table.columns:
        if not column.default or column.name in given:
            continue
        if column.default == "identity":
            return f"value of {column.name}"
        volatile = first_volatile(inner(expression(column.default)), catalog)
        if volatile is not None:
            return volatile
    return None


def _given(tree: Any, names: Sequence[str]) -> set[str]:
    """The columns that surely get their values from the statement; all of them where rows are not made."""
    if kind(tree) == "MergeStmt":
        inserts = [clause.merge_when_clause for clause in tree.merge_when_clauses]
        inserts = [when for when in inserts if when.command_type == _CMD_INSERT]
        given = [
            {target.res_target.name for target in when.target_list} or names[: len(when.values)] for when in inserts
        ]
        return set(names).intersection(*given)
    if kind(tree) != "InsertStmt":
        return set(names)
    if tree.cols:
        return {column.res_target.name for column in tree.cols}
    select = inner(tree.select_stmt) if tree.HasField("select_stmt") else None
    if select is None:
        return set()
    if select.values_lists:
        return set(names[: min(len(row.list.items) for row in select.values_lists)])
    stars = any(is_star(node.res_target) for node in select.target_list)
    return set() if stars else set(names[: len(select.target_list)])
