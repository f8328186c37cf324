"""UPDATE of a partition key: rows are deleted where they are, and inserted as they become where they belong then.

A server does so with a row that goes to another partition. `DELETE … RETURNING` locks the rows and looks at them as the
UPDATE would, and evaluates what it assigns, once for each row. What would be another thing than an UPDATE is refused.
See docs/adr/0054-rows-follow-their-key.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from ...control.own_sql import qualified
from ...control.settings import are_exact
from ...control.storing import RULES, TRIGGERS
from ...errors import UnsupportedQuery
from ...quoting import quote_literal, quote_table
from ..analysis.analysis import Analysis
from ..analysis.catalog import Column, Table
from ..analysis.conditions import constant
from ..analysis.purity import first_volatile
from ..analysis.timing import timed
from ..text.statement import assigned, deparse, expression, inner, kind, parse, quoted, strings, walk
from ..text.template import time_type
from ..text.tree import copy
from .copies import written_as
from .made import as_text, default_of, finished, place_of
from .plan import Gathered, Rekeyed

_WRITES = ("INSERT", "UPDATE", "DELETE")
# How many columns a table has, and whether nothing is set off by writes of it, and no policy is on it.
_COLUMNS = qualified("""(
    select pg_catalog.count(*) from pg_catalog.pg_attribute a
    where a.attrelid = {table} and a.attnum > 0 and not a.attisdropped)""")
_PLAIN = qualified(f"""{TRIGGERS} is null and {RULES} is null
    and not (select c.relrowsecurity from pg_catalog.pg_class c where c.oid = {{table}})""")


def rekeyed(tree: Any, analysis: Analysis, refusal: UnsupportedQuery | None) -> Rekeyed:
    """How the rows of an UPDATE follow their key. Raises `UnsupportedQuery` where that would not be what it does.

    `refusal` is why the shards cannot do an UPDATE each for its own rows, if they cannot.
    """
    node, catalog = analysis.writes[0], analysis.catalog
    table = catalog.tables[node.table]
    why = next(_obstacles(tree, table, analysis), None)
    if why is not None:
        raise _refused(analysis, why)
    if refusal is not None:
        raise refusal
    values = dict(assigned(tree.target_list))
    columns = [found for name in values if (found := table.column(name)) and not found.generated]
    columns += [column for column in table.columns if column.name not in values and not column.generated]
    delete = _delete(tree)
    for column in columns:
        value = values.get(column.name)
        own = f"{quoted(node.alias)}.{quoted(column.name)}"
        if value is None or (column.of_domain and kind(inner(value)) == "ColumnRef"):
            text = expression(written_as(column, own))
        elif kind(inner(value)) == "SetToDefault":
            text = as_text(place_of(column), expression(default_of(table, column)))
        else:
            text = as_text(place_of(column), value)
        delete.returning_clause.exprs.add().res_target.val.CopyFrom(text)
    volatile = first_volatile(delete, catalog, timeless=False)
    if volatile is not None:
        raise _refused(analysis, f"{volatile} may give each row, or each shard, its own value")
    insert = parse("insert into t values (1)")[0]
    insert.relation.CopyFrom(tree.relation)
    insert.relation.inh = True
    if tree.HasField("returning_clause"):
        insert.returning_clause.CopyFrom(tree.returning_clause)
    taken = Gathered("write", deparse(delete), timed=timed(delete))
    return Rekeyed(taken, finished(insert, columns, table), _guard(node.alias, table))


def _delete(tree: Any) -> Any:
    found = parse("delete from t returning 1")[0]
    del found.returning_clause.exprs[:]
    found.relation.CopyFrom(tree.relation)
    found.using_clause.extend(map(copy, tree.from_clause))
    for name in ("where_clause", "with_clause"):
        if tree.HasField(name):
            getattr(found, name).CopyFrom(getattr(tree, name))
    return found


def _guard(alias: str, table: Table) -> str:
    """Whether a row is of the table itself, and the table as it is known here: what it had more would be lost."""
    oid = f"{quote_literal(quote_table(table.name))}::pg_catalog.regclass"
    told = f"{_COLUMNS.format(table=oid)} operator(pg_catalog.=) {len(table.columns)} and {_PLAIN.format(table=oid)}"
    if table.kind != "p":
        told += f" and {quoted(alias)}.tableoid operator(pg_catalog.=) {oid}"
    return f"({told})::pg_catalog.text"


def _refused(analysis: Analysis, why: str) -> UnsupportedQuery:
    assignment = analysis.key_assignments[0]
    table = assignment.table.removeprefix("public.")
    return UnsupportedQuery(
        f"rows of {table} cannot follow their partition key {assignment.column}: {why}",
        detail="A row that belongs to another shard then is deleted, and inserted there.",
        hint="Delete the rows, and insert them with the new key, by statements of your own in router.transaction().",
    )


def _obstacles(tree: Any, table: Table, analysis: Analysis) -> Iterator[str]:
    """What a DELETE and an INSERT would do otherwise than the UPDATE, or could not do."""
    if not are_exact(analysis.catalog.settings):
        yield "the shards do not write all values as texts that are read as the same"
    if table.row_security:
        yield "row security has other policies for UPDATE"
    if table.rules:
        yield f"the rule {table.rules[0][0]} rewrites writes"
    found = next((trigger.name for trigger in table.triggers if trigger.runs_on(_WRITES)), None)
    if found is not None:
        yield f"the trigger {found} would run for DELETE and INSERT, and not for UPDATE"
    changed = {target.res_target.name for target in tree.target_list}
    yield from _references(table, changed)
    values = dict(assigned(tree.target_list))
    yield from _values(tree, table, values, changed)
    yield from _returned(tree)


def _references(table: Table, changed: Set[str]) -> Iterator[str]:
    for cascade in table.cascades:
        other = cascade.table.removeprefix("public.")
        if cascade.on_update in "cnd" or cascade.on_delete in "cnd":
            yield f"a foreign key of {other} changes its rows with them"
        if changed.isdisjoint(cascade.referred):
            yield f"rows of {other} refer to them by columns that stay the same"


def _values(tree: Any, table: Table, values: Mapping[str, Any], changed: Set[str]) -> Iterator[str]:
    if len(values) < len(changed):
        yield "a subquery gives several columns at once"
    if any(target.res_target.indirection for target in tree.target_list):
        yield "a part of a column is assigned"
    for name, value in values.items():
        column = table.column(name)
        if column is not None and column.of_domain and not _is_plain(inner(value), column):
            yield f"{name}, whose type is a domain, is assigned an expression"


def _is_plain(value: Any, column: Column) -> bool:
    return constant(value) is not None or (kind(value) == "ColumnRef" and strings(value.fields)[-1:] == [column.name])


def _returned(tree: Any) -> Iterator[str]:
    """What RETURNING of the INSERT does not know, or knows as something else."""
    if not tree.HasField("returning_clause"):
        return
    if tree.from_clause:
        yield "RETURNING may name columns of other tables"
    clause = tree.returning_clause
    if getattr(clause, "options", None):
        yield "RETURNING gives names to old and new rows"
    for found in walk(clause):
        if kind(found) == "SubLink":
            yield "RETURNING has a subquery"
        if time_type(found) is not None:
            yield "RETURNING tells the time, which each shard has of its own"
        if kind(found) == "ColumnRef" and strings(found.fields)[:1] and strings(found.fields)[0] in ("old", "new"):
            yield "RETURNING may tell old rows from new ones"
