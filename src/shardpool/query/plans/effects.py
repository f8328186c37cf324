"""What a write changes beside its own rows: by triggers, rules, foreign keys, and by the functions that it calls.

The server does all that where the statement runs. That is right for rows that lie there whatever they are, and wrong
for the others: a reference table is changed on one shard only, or by each shard for its own part of the rows. Such a
statement is refused, and so is one of which it cannot be told.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from ...control.storing import Cascade, Trigger
from ...errors import RoutingError, UnsupportedQuery
from ...keys import varchar_length
from ...report import Finding
from ...topology import Reference, Sharded, Single, Topology
from ..analysis.analysis import Analysis
from ..analysis.catalog import Catalog, NeedsBodies, NeedsShard, Table
from ..analysis.pins import AssignedKeys, Both, In, Pin
from ..text.bodies import Body, Written, body_of, with_params
from ..text.remembered import remembered
from ..text.statement import expression, inner, kind, parse, strings, walk
from .kept import refuse_load
from .plan import uses_of

_ALL = frozenset(("INSERT", "UPDATE", "DELETE"))


_WRITES = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")


def refuse_effects(tree: Any, analysis: Analysis) -> None:
    """Raise `UnsupportedQuery` where what a statement sets off may write rows that are not where it runs."""
    effects = _Effects(analysis.topology, analysis.catalog)
    for part in walk(tree):
        if kind(part) in _WRITES:
            name = analysis.catalog.resolve(part.relation.schemaname, part.relation.relname) or ""
            if name in analysis.catalog.tables:
                changed = _changed(part)
                effects.of_write(analysis.catalog.tables[name], _verbs(part), changed)
                effects.of_defaults(analysis.catalog.tables[name], _given(part))
    shards = {node.placement.shard if isinstance(node.placement, Single) else "" for node in analysis.nodes}
    shard = shards.pop() if len(shards) == 1 and not analysis.references else ""
    effects.of_calls(_calls(tree), "the statement", shard)
    if effects.problem:
        raise effects.problem


def refuse_effects_of_load(name: str, columns: Sequence[str], topology: Topology, catalog: Catalog) -> None:
    """Raise `UnsupportedQuery` where loading columns of a table may write rows that are not where they are loaded.

    Raises `NeedsBodies` and `NeedsShard`, too.
    """
    placement, table = topology.placement(name), catalog.tables.get(name)
    if isinstance(placement, Single) and placement.shard not in catalog.told_by:
        raise NeedsShard(placement.shard)
    if table is None:
        return
    refuse_load(table, columns, topology)
    effects = _Effects(topology, catalog)
    effects.of_write(table, frozenset(("INSERT",)), frozenset())
    effects.of_defaults(table, columns)
    if effects.problem:
        raise effects.problem


def effect_findings(topology: Topology, catalog: Catalog) -> Iterator[Finding]:
    """Tables of which writes are refused for what they set off."""
    for table in catalog.tables.values():
        tables_by_effect: dict[str, list[str]] = {}
        for verb in ("INSERT", "UPDATE", "DELETE"):
            effects = _Effects(topology, catalog)
            effects.of_write(table, frozenset((verb,)), _ANY_COLUMN)
            if effects.problem:
                tables_by_effect.setdefault(str(effects.problem).partition("\n")[0], []).append(verb)
        for why, verbs in tables_by_effect.items():
            hint = (
                f"{'/'.join(verbs)} is refused but with key=… or on a shard: there only that shard's rows are written."
            )
            yield Finding("warning", _short(table.name), why, hint)


def _verbs(tree: Any) -> frozenset[str]:
    match kind(tree):
        case "InsertStmt":
            return frozenset(("INSERT", "UPDATE") if tree.on_conflict_clause.target_list else ("INSERT",))
        case "UpdateStmt":
            return frozenset(("UPDATE",))
        case "DeleteStmt":
            return frozenset(("DELETE",))
    return _ALL


def _changed(tree: Any) -> frozenset[str]:
    """The columns that a write assigns to rows that there are."""
    holders = [tree]
    if kind(tree) == "InsertStmt":
        holders = [tree.on_conflict_clause]
    elif kind(tree) == "MergeStmt":
        holders = [clause.merge_when_clause for clause in tree.merge_when_clauses]
    elif kind(tree) == "DeleteStmt":
        holders = []
    return frozenset(target.res_target.name for holder in holders for target in holder.target_list)


def _given(tree: Any) -> Container[str]:
    """The columns whose defaults a write does not evaluate."""
    if any(kind(part) == "SetToDefault" for part in walk(tree)):
        return ()
    if kind(tree) == "InsertStmt":
        return [column.res_target.name for column in tree.cols]
    return () if kind(tree) == "MergeStmt" else _ANY_COLUMN


def _calls(tree: Any) -> frozenset[str]:
    return frozenset(strings(part.funcname)[-1] for part in walk(tree) if kind(part) == "FuncCall")


@dataclass
class _Effects:
    """What is set off, followed from table to table; `problem` is the first that is not right where it happens."""

    topology: Topology
    catalog: Catalog
    problem: UnsupportedQuery | None = None
    seen: set[Any] = field(default_factory=set)

    def of_write(self, table: Table, verbs: frozenset[str], changed: Container[str]) -> None:
        """Those of a write of this table; `changed` are the columns that it assigns to rows that there are."""
        if (table.name, verbs) in self.seen or self.problem:
            return
        self.seen.add((table.name, verbs))
        if table.kind == "v":
            self.refuse(f"{_short(table.name)} is a view", _VIEW, _BY_VIEW)
        for rule, verb in table.rules:
            if verb in verbs:
                self.refuse(f"{verb} of {_short(table.name)} is rewritten by its rule {rule}", _RULE, _BY_RULE)
        for trigger in table.triggers:
            if trigger.runs_on(verbs):
                self._of_trigger(table, trigger)
        for cascade in table.cascades:
            self._of_cascade(table, cascade, verbs, changed)

    def of_defaults(self, table: Table, given: Container[str]) -> None:
        """Those of the defaults of columns that are not given."""
        placement = self.topology.placement(table.name)
        for column in table.columns:
            if column.default and column.default != "identity" and column.name not in given:
                calls = _called_by(column.default)
                shard = placement.shard if isinstance(placement, Single) else ""
                self.of_calls(calls, f"the default of {_short(table.name)}.{column.name}", shard)

    def of_calls(self, names: frozenset[str], what: str, shard: str) -> None:
        """Those of functions that are called by `what`, which runs for single tables of the shard only, if any."""
        for name, body in self._bodies(names):
            told = f"function {name}(), which {what} calls," if what != "the statement" else f"function {name}()"
            if body.unread:
                self.refuse(f"what {told} writes cannot be told: {body.unread}", _CALLED, _BY_CALL)
            for written, table in self._written(body):
                if not (shard and self.topology.placement(table) == Single(shard)):
                    self.refuse(f"{told} writes {_short(table)}", _CALLED, _BY_CALL)
                self._of_other(table, written.verbs, _ANY_COLUMN)

    def refuse(self, what: str, detail: str, hint: str) -> None:
        """Keep the first refusal."""
        self.problem = self.problem or UnsupportedQuery(what, detail=detail, hint=hint)

    def _of_trigger(self, table: Table, trigger: Trigger) -> None:
        body = body_of(trigger.language, trigger.body, is_trigger=True)
        told = f"trigger {trigger.name} of {_short(table.name)}"
        placement = self.topology.placement(table.name)
        for name, called in [("", body), *self._bodies(body.calls)]:
            by = f"{told} (in {name}())" if name else told
            if called.unread:
                self.refuse(f"what {by} writes cannot be told: {called.unread}", *self._about(table))
            for written, other in self._written(called):
                if isinstance(placement, Single):
                    right = self.topology.placement(other) == placement
                else:
                    right = not name and self._keeps_key(table, trigger, body, written)
                if not right:
                    self.refuse(f"{by} writes {_short(other)}", *self._about(table))
                self._of_other(other, written.verbs, _ANY_COLUMN)

    def _of_other(self, name: str, verbs: frozenset[str], changed: Container[str]) -> None:
        table = self.catalog.tables.get(name)
        if table is not None:
            self.of_write(table, verbs, changed)

    def _about(self, table: Table) -> tuple[str, str]:
        if isinstance(self.topology.placement(table.name), Reference):
            return (
                "It runs on every shard, with the copy of the row that is there.",
                "Write the other table by a statement of its own, in place of the trigger.",
            )
        return (
            "It runs on the shard of the row, and sees and writes what is there only.",
            "Write the other table by a statement of its own, in place of the trigger; rows of the same partition key "
            "it may write, where its text gives them the key as NEW.column or OLD.column.",
        )

    def _of_cascade(self, table: Table, cascade: Cascade, verbs: frozenset[str], changed: Container[str]) -> None:
        other = cascade.table
        if other not in self.topology.placements:
            return
        target = self.topology.placement(other)
        may_be_set = [trigger for trigger in table.triggers if trigger.runs_on(("UPDATE",))]
        updated = {
            name
            for name, referred in zip(cascade.columns, cascade.referred, strict=True)
            if referred in changed or any(trigger.may_set((referred,)) for trigger in may_be_set)
        }
        what = f"the foreign key of {_short(other)} changes it with {_short(table.name)}"
        for verb, action, columns in (
            ("UPDATE", cascade.on_update, updated),
            ("DELETE", cascade.on_delete, set(cascade.deleted or cascade.columns)),
        ):
            if verb not in verbs or action not in "cnd" or (verb == "UPDATE" and not updated):
                continue
            if isinstance(target, Reference) and not isinstance(self.topology.placement(table.name), Reference):
                self.refuse(what, "Only the copy on the shard of the row is changed.", _BY_CASCADE)
            removes = verb == "DELETE" and action == "c"
            if isinstance(target, Sharded) and not removes:
                lost = [name for name in target.key_columns if name in columns and not self._stays(other, name, action)]
                if lost:
                    detail = f"Rows whose {', '.join(lost)} is another one may belong to another shard."
                    self.refuse(what, detail, _BY_CASCADE)
            self._of_other(other, frozenset(("DELETE" if removes else "UPDATE",)), columns)

    def _stays(self, name: str, column: str, action: str) -> bool:
        """Whether a key column is not changed, since the server refuses that: to NULL where it may not be NULL."""
        table = self.catalog.tables.get(name)
        stored = table.column(column) if table is not None else None
        return action == "n" and stored is not None and stored.not_null

    def _written(self, body: Body) -> Iterator[tuple[Written, str]]:
        """The tables of the topology that a body may write: of a bare name all that have it."""
        for written in body.written:
            for name in self.topology.placements:
                schema, bare = name.split(".", 1)
                if bare == written.name and written.schema in ("", schema):
                    yield written, name

    def _bodies(self, names: frozenset[str]) -> Iterator[tuple[str, Body]]:
        """The functions of these names that may write, with all that they call. Raises `NeedsBodies`."""
        left, known = set(names), set[str]()
        while left:
            asked = {name for name in left if self._may_write(name)}
            missing = asked - self.catalog.bodies.keys()
            if missing:
                raise NeedsBodies(missing)
            known |= left
            left = set()
            for name in sorted(asked):
                for language, text, volatility in self.catalog.bodies[name]:
                    body = body_of(language, text)
                    # What is not VOLATILE may not write, the server sees to that; but it may call what does.
                    yield name, body if volatility == "v" else Body(calls=body.calls)
                    left |= body.calls - known

    def _may_write(self, name: str) -> bool:
        function = self.catalog.functions.get(name)
        return function is not None and not function.built_in and function.volatility != "i"

    def _keeps_key(self, table: Table, trigger: Trigger, body: Body, written: Written) -> bool:
        """Whether all rows that a trigger's statement touches are shown to have the partition key of its own row."""
        source = self.topology.placement(table.name)
        if not isinstance(source, Sharded) or not (trigger.each_row and written.statement):
            return False
        if not body.assigned.isdisjoint(("*", *source.key_columns)):
            return False
        names = [column.name for column in table.columns]
        analysis = Analysis(self.topology, self.catalog)
        try:
            tree = parse(with_params(written.statement, names, source.key_columns))[0]
            if kind(tree) not in _WRITES:
                return False
            analysis.query(tree, None, {})
        except (NeedsShard, RoutingError, UnsupportedQuery, psycopg.Error):
            return False
        if (
            analysis.doubts
            or analysis.key_assignments
            or any(isinstance(node.placement, Reference) for node in analysis.writes)
        ):
            return False
        lengths = [varchar_length(column.type) for name in source.key_columns if (column := table.column(name))]
        return all(
            use.keyspace == source.keyspace and all(map(_is_kept, use.pins, range(1, len(use.pins) + 1), lengths))
            for use in uses_of(analysis.nodes)
        )


def _is_kept(pins: Sequence[Pin], number: int, length: int) -> bool:
    """Whether a key part is that of the trigger's row, a text of at most this length: 0 for any."""
    for pin in pins:
        if isinstance(pin, Both) and _is_kept(pin.pins, number, length):
            return True
        if isinstance(pin, In | AssignedKeys) and len(pin.consts) == 1:
            const = pin.consts[0]
            if (
                const.param == number
                and not const.cast
                and (not const.holder.length or 0 < length <= const.holder.length)
            ):
                return True
    return False


class _AnyColumn:
    """Holds every name."""

    def __contains__(self, name: object) -> bool:
        return True


_ANY_COLUMN = _AnyColumn()

_VIEW = "Which tables a write of it writes is only known to the server."
_BY_VIEW = "Write its table; or name the shard: shard(name).execute()."
_RULE = "Which rows are written where is only known to the server."
_BY_RULE = "Make a trigger of it; or pass key=…, or name the shard: shard(name).execute()."
_CALLED = "It runs on one shard, and sees and writes what is there only."
_BY_CALL = "Write the table by a statement of its own; or pass key=…, or name the shard: shard(name).execute()."
_BY_CASCADE = "Change those rows by a statement of their own, and let the foreign key take NO ACTION."


def _short(table: str) -> str:
    return table.removeprefix("public.")


@remembered
def _called_by(default: str) -> frozenset[str]:
    return _calls(inner(expression(default)))
