"""Which expressions give the same on every server, and which must not be answered by one server for all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg

from ...errors import UnsupportedQuery
from ..text.statement import enum_name, kind, strings, walk
from ..text.template import time_type
from .catalog import Catalog
from .texts import NAMED_TIMES, may_be_a_moment, without_texts

# STABLE functions of PostgreSQL that look at nothing but their arguments and the settings that are compared.
_BY_SETTINGS = frozenset(
    "anytextcat array_agg array_in array_out array_to_json array_to_string concat concat_ws convert "
    "convert_from convert_to date date_add date_bin date_part date_subtract date_trunc enum_first enum_last "
    "enum_range extract format generate_series ilike interval is_normalized isfinite json_agg json_agg_strict "
    "json_build_array json_build_object json_object_agg json_populate_record json_populate_recordset "
    "json_to_record json_to_recordset json_to_tsvector jsonb_agg jsonb_agg_strict jsonb_build_array "
    "jsonb_build_object jsonb_object_agg jsonb_path_exists_tz jsonb_path_match_tz jsonb_path_query_array_tz "
    "jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record jsonb_populate_record_valid "
    "jsonb_populate_recordset jsonb_to_record jsonb_to_recordset jsonb_to_tsvector justify_days length like "
    "make_timestamptz money normalize notlike numeric numeric_to_char overlaps phraseto_tsquery "
    "plainto_tsquery quote_ident quote_literal quote_nullable row_to_json similar_escape string_agg "
    "string_to_array text textanycat time timestamp timestamptz timetz timezone to_char to_date to_json "
    "to_jsonb to_number to_timestamp to_tsquery to_tsvector ts_headline unnest websearch_to_tsquery "
    "xml_is_well_formed".split()
)
# VOLATILE or STABLE, and still the business of no particular server: evaluated once, on one server, they are right.
_ANYWHERE = frozenset(
    "age array_sample array_shuffle clock_timestamp current_catalog current_database "
    "current_role current_schema current_schemas current_user gen_random_uuid "
    "get_current_ts_config now pg_input_error_info pg_input_is_valid pg_size_bytes pg_size_pretty pg_sleep pg_typeof "
    "random random_normal session_user setseed statement_timestamp system_user tablesample timeofday "
    "transaction_timestamp ts_debug user uuidv4 uuidv7 version xmlvalidate".split()
)
_SYSTEM_COLUMNS = frozenset("ctid xmin xmax cmin cmax tableoid".split())
_REG_TYPES = frozenset(
    "regclass regproc regprocedure regoper regoperator regtype regrole regnamespace regcollation regconfig "
    "regdictionary oid xid cid tid xid8 pg_lsn".split()
)


_NAMED_TIMES_IN_BYTES = re.compile(NAMED_TIMES.pattern.encode(), re.IGNORECASE)


def names_a_time(text: bytes) -> bool:
    """Whether a text may be read as a moment that each server has of its own, by itself or within."""
    return _NAMED_TIMES_IN_BYTES.search(text) is not None


def first_volatile(tree: Any, catalog: Catalog, *, timeless: bool = True) -> str | None:
    """What in a tree may differ from server to server, or from moment to moment; None when nothing does.

    The time of the transaction does not count where it is told to all: `timeless=False`.
    """
    if any(map(_is_a_moment, walk(tree))):
        tree = without_texts(tree, catalog)
    return next(_impurities(tree, catalog, timeless), None)


def _impurities(tree: Any, catalog: Catalog, timeless: bool) -> Iterator[str]:
    for part in walk(tree):
        if not timeless and time_type(part) is not None:
            continue
        match kind(part):
            case "FuncCall":
                name = strings(part.funcname)[-1]
                function = catalog.function(strings(part.funcname))
                if function is None or (
                    function.volatility != "i" and not (function.built_in and name in _BY_SETTINGS)
                ):
                    yield f"{name}()"
            case "SQLValueFunction":
                yield _value_function(part)
            case "A_Expr":
                if catalog.volatility(strings(part.name)) != "i":
                    yield f"the operator {strings(part.name)[-1]}"
            case "A_Const":
                if _is_a_moment(part):
                    yield f"'{part.sval.sval}'"
            case "ColumnRef":
                if strings(part.fields)[-1:] and strings(part.fields)[-1] in _SYSTEM_COLUMNS:
                    yield strings(part.fields)[-1]
            case "RangeTableSample":
                yield "TABLESAMPLE"


def _is_a_moment(constant: Any) -> bool:
    return kind(constant) == "A_Const" and constant.WhichOneof("val") == "sval" and may_be_a_moment(constant.sval.sval)


def _value_function(function: Any) -> str:
    return enum_name(function, "op").removeprefix("SVFOP_")


def refuse_server_local(tree: Any, catalog: Catalog) -> None:
    """Raise `UnsupportedQuery` when one server's answer is not the whole fleet's."""
    for part in walk(tree):
        match kind(part):
            case "FuncCall":
                _check_function(part, catalog)
                if strings(part.funcname)[-1] == "pg_typeof" and _has_whole_row(tree):
                    raise UnsupportedQuery(
                        "pg_typeof() of a whole row names the type of one server's table",
                        hint="Name the column: pg_typeof(t.x), not t; or pass key=….",
                    )
            case "A_Expr":
                if catalog.volatility(strings(part.name)) != "i":
                    raise _may_read_tables(f"the operator {strings(part.name)[-1]}")
            case "ColumnRef":
                _check_column(strings(part.fields), catalog)
            case "TypeName":
                _check_type(strings(part.names))


def _has_whole_row(tree: Any) -> bool:
    """Whether a row as one value may be meant somewhere: its type is that of a table, not the same one when pulled."""
    relations: set[str] = set()
    names: set[str] = set()
    for part in walk(tree):
        match kind(part):
            case "RangeVar":
                relations.add(part.relname)
            case "Alias":
                relations.add(part.aliasname)
            case "CommonTableExpr":
                relations.add(part.ctename)
            case "ColumnRef":
                names.update(strings(part.fields[-1:]))
            case "FuncCall" if any(_is_star(argument) for argument in part.args):
                return True
    return bool(relations & names)


def _is_star(node: Any) -> bool:
    fields = node.column_ref.fields if node.WhichOneof("node") == "column_ref" else []
    return any(field.WhichOneof("node") == "a_star" for field in fields)


def _check_type(names: list[str]) -> None:
    if names and names[-1] in _REG_TYPES:
        raise UnsupportedQuery(
            f"{names[-1]} values are numbers of one server only",
            hint="Name the shard: shard(name).execute(), or ask all with scatter().",
        )


def _check_function(call: Any, catalog: Catalog) -> None:
    parts = strings(call.funcname)
    name = parts[-1]
    function = catalog.function(parts)
    if function is not None and "t" in function.kinds and len(call.args) == 1:
        _check_type(parts)
    if function is None:
        if len(parts) == len(call.args) == 1 and any(table.column(name) for table in catalog.tables.values()):
            return  # `name(t)` is the column t.name
        raise psycopg.errors.UndefinedFunction(f"function {'.'.join(parts)}() does not exist")
    if not function.built_in and function.volatility != "i":
        raise _may_read_tables(f"{name}()")
    if name in _OF_SEQUENCES:
        raise UnsupportedQuery(f"{name}() answers for one server only", hint=_OF_SEQUENCES[name])
    if function.volatility != "i" and name not in _BY_SETTINGS and name not in _ANYWHERE:
        raise UnsupportedQuery(
            f"{name}() answers for one server only",
            hint="Pass key=…, or name the shard: shard(name).execute(), or ask all with scatter().",
        )
    if name in _RUNS_SQL:
        raise _may_read_tables(f"{name}()")


_OF_SEQUENCES = {
    **dict.fromkeys(("currval", "lastval"), "Use RETURNING: each statement may have another session."),
    "nextval": "Draw the number by itself, select nextval('…'), and pass it as a parameter.",
    "setval": "Set it by itself: select setval('…', max(id)) from t.",
}
_RUNS_SQL = frozenset("ts_rewrite ts_stat query_to_xml table_to_xml cursor_to_xml schema_to_xml".split())


# Functions that everybody uses, known as what they are without a catalog.
_USUAL = frozenset(
    "abs array_agg avg bool_and bool_or ceil coalesce concat count date_part date_trunc floor greatest json_agg "
    "json_build_object jsonb_agg jsonb_build_object least length lower max min nullif pg_sleep round row_number "
    "row_to_json string_agg substring sum to_char to_json to_jsonb trim upper now".split()
)


def may_write(tree: Any, catalog: Catalog | None) -> bool:
    """Whether a statement may leave something behind: all may but SELECT and SHOW without a function that might."""
    if kind(tree) == "VariableShowStmt":
        return False
    if kind(tree) != "SelectStmt":
        return True
    for part in walk(tree):
        if kind(part) in ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "IntoClause", "LockingClause"):
            return True
        if kind(part) == "FuncCall" and not _only_reads(strings(part.funcname)[-1], catalog):
            return True
    return False


def _only_reads(name: str, catalog: Catalog | None) -> bool:
    if catalog is None:
        return name in _USUAL
    function = catalog.functions.get(name)
    return function is not None and (
        function.volatility == "i" or (function.built_in and (name in _BY_SETTINGS or name in _ANYWHERE))
    )


def refuse_system_columns(tree: Any) -> None:
    """Raise `UnsupportedQuery` for ctid and its like: they are of one server's files."""
    for part in walk(tree):
        fields = strings(part.fields) if kind(part) == "ColumnRef" else []
        if fields and fields[-1] in _SYSTEM_COLUMNS:
            raise UnsupportedQuery(
                f"{fields[-1]} is a column of one server's files",
                hint="Use the primary key; or pass key=…, or name the shard: shard(name).execute().",
            )


def _check_column(fields: list[str], catalog: Catalog) -> None:
    """`t.f` is the call f(t) when t has no column f."""
    if len(fields) < 2 or any(table.column(fields[-1]) for table in catalog.tables.values()):
        return
    function = catalog.function(fields[-1:])
    if function is not None and not function.built_in and function.volatility != "i":
        raise _may_read_tables(f"{fields[-1]}()")


def _may_read_tables(what: str) -> UnsupportedQuery:
    return UnsupportedQuery(
        f"{what} is not PostgreSQL's own, nor IMMUTABLE",
        detail="It may read tables whose rows are on other shards.",
        hint="Pass key=…, name the shard with shard(name).execute(), or declare it IMMUTABLE if it is.",
    )
