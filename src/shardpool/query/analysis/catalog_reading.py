"""A catalog, made of what shards have answered to the queries of `control.catalog`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from ...control.storing import cascades, rules, triggers
from ...topology import Topology
from .catalog import Catalog, Column, Function, Table, Takes
from .catalog import Sequence as Numbering


def with_bodies(catalog: Catalog, names: Set[str], rows: Sequence[Sequence[str]] | None) -> Catalog:
    """The catalog with what `BODIES_QUERY` tells of functions of these names."""
    functions_by_name: dict[str, list[tuple[str, str, str]]] = {name: [] for name in names}
    for name, language, body, volatility in rows or ():
        functions_by_name[name].append((language, body, volatility))
    return replace(catalog, bodies={**catalog.bodies, **functions_by_name})


def make_catalog(shard: str, facts: Mapping[str, Any], built_in: list[Any], topology: Topology) -> Catalog:
    """The catalog of one shard's answer to `CATALOG_QUERY` (as JSON), with PostgreSQL's own functions."""
    tables, visible = _tables(shard, facts, topology)
    own = _functions(built_in, built_in=True)
    functions = dict(own)
    for name, function in _functions(facts["functions"] or [], built_in=False).items():
        functions[name] = _worse(functions[name], function) if name in functions else function
    operators: dict[str, str] = {}
    for name, volatility, language, *_ in facts["operators"] or []:
        operators[name] = max(operators.get(name, "i"), _believed(volatility, language), key="isv".index)
    database = facts["database"]
    collation = database["datcollate"] if database["datlocprovider"] in (None, "c") else database["datlocale"]
    known = Catalog(tables, visible, functions, operators, settings=facts["settings"], collation=collation or "")
    if "pg_catalog" in facts["settings"].get("search_path", ""):
        # PostgreSQL's own may not be looked for first.
        return replace(known, told_by=frozenset((shard,)))
    casts: dict[str, set[str]] = {}
    for source, target in facts["casts"] or []:
        casts.setdefault(target, set()).add(source)
    apart = {key: _overloads(facts[key] or [], casts) for key in ("functions", "operators")}
    return replace(
        known,
        own={name: own[name] for name in apart["functions"]},
        other_functions=apart["functions"],
        other_operators=apart["operators"],
        told_by=frozenset((shard,)),
    )


def _overloads(rows: list[Any], casts: Mapping[str, Set[str]]) -> dict[str, list[Takes]]:
    """What those take that are not PostgreSQL's own, of names of which all that have them can be told from those."""
    overloads_by_name: dict[str, list[Any]] = {}
    for name, *_, types in rows:
        overloads_by_name.setdefault(name, []).append(types)
    return {
        name: [_takes(types, casts) for types in every if types is not True]
        for name, every in overloads_by_name.items()
        if None not in every
    }


def _takes(types: list[str | None], casts: Mapping[str, Set[str]]) -> Takes:
    return [None if type_ is None else {type_, *casts.get(type_, ())} for type_ in types]


def with_singles(catalog: Catalog, shard: str, facts: Mapping[str, Any], topology: Topology) -> Catalog:
    """The catalog with the single tables of one more shard."""
    tables, visible = _tables(shard, facts, topology)
    return replace(
        catalog,
        tables={**tables, **catalog.tables},
        visible={**visible, **catalog.visible},
        told_by=catalog.told_by | {shard},
    )


_ON_WRITES = ("unique", "triggers", "rules", "cascades")


def shapes(facts_of_shard: Mapping[str, Any]) -> dict[str, Any]:
    """What a shard has told of its tables, but for what says what becomes of writes only: it may differ for a time."""
    tables = (facts_of_shard["tables"] or {}).items()
    return {name: {key: fact for key, fact in facts.items() if key not in _ON_WRITES} for name, facts in tables}


def _tables(
    shard: str, facts_of_shard: Mapping[str, Any], topology: Topology
) -> tuple[dict[str, Table], dict[str, str]]:
    """The tables of one shard's answer, single tables only where they live, and the names that stand for them."""
    table_by_name = {
        name: facts
        for name, facts in (facts_of_shard["tables"] or {}).items()
        if topology.single_tables.get(name, shard) == shard
    }
    visible = {name.split(".", 1)[1]: name for name, facts in table_by_name.items() if facts["visible"]}
    sequences = facts_of_shard.get("sequences") or {}
    return {name: _table(name, facts, sequences.get(name, {})) for name, facts in table_by_name.items()}, visible


def _table(name: str, facts: Mapping[str, Any], sequences: Mapping[str, Sequence[Any]]) -> Table:
    columns = tuple(
        replace(Column(*column), sequence=Numbering(*sequences[column[0]]))
        if column[0] in sequences
        else Column(*column)
        for column in facts["columns"] or []
    )
    unique = tuple((index, frozenset(held or ())) for index, held, *_ in facts.get("unique") or ())
    return Table(
        name,
        facts["kind"],
        facts["rls"],
        columns,
        tuple(facts["key"] or ()),
        unique,
        triggers(facts.get("triggers")),
        rules(facts.get("rules")),
        facts.get("triggered", False),
        cascades(facts.get("cascades")),
    )


def _functions(rows: list[Any], *, built_in: bool) -> dict[str, Function]:
    function_by_name: dict[str, Function] = {}
    for name, kind, volatility, gives_set, *others in rows:
        believed = _believed(volatility, others[0]) if others else volatility
        function = Function(frozenset(kind), believed, gives_set, built_in)
        known = function_by_name.get(name)
        function_by_name[name] = function if known is None else _worse(known, function)
    return function_by_name


def _believed(volatility: str, language: str) -> str:
    """A function that is not IMMUTABLE may read tables, whatever its language: only IMMUTABLE is taken at its word."""
    return "i" if volatility == "i" else "v"


def _worse(one: Function, other: Function) -> Function:
    return Function(
        one.kinds | other.kinds,
        max(one.volatility, other.volatility, key="isv".index),
        one.gives_set or other.gives_set,
        one.built_in and other.built_in,
    )
