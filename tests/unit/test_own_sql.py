"""The queries that shardpool itself runs name the schema of every function, operator and type."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from shardpool._async.admin import samples
from shardpool._async.fleet import connector, monitor
from shardpool._async.work import checkout, handle, transaction
from shardpool._wire import transfer
from shardpool.control import catalog, copy_target, sequences, stored_facts, transactions
from shardpool.control.identity import IDENTITY_QUERY
from shardpool.control.own_sql import qualified
from shardpool.query.text.statement import kind, parse, strings, walk
from shardpool.schema import contents, indexes, locks, session, state

QUERIES = {
    "identity": IDENTITY_QUERY,
    "role": connector._ROLE_QUERY,
    "mark": catalog.MARK_QUERY,
    "catalog": catalog.CATALOG_QUERY,
    "what writes set off": catalog.WRITES_QUERY,
    "what numbers columns": catalog.SEQUENCES_QUERY,
    "numbers": sequences.DRAW,
    "other functions": catalog.OTHERS_QUERY,
    "built-in functions": catalog.BUILT_IN_QUERY,
    "table of copy_into": copy_target.TARGET_QUERY,
    "stored facts": stored_facts.STORED_FACTS,
    "state of a server": monitor._STATE_QUERY,
    "sample of a server": samples._QUERY,
    "blockers of a unit": transaction._BLOCKERS,
    "state of a transaction": transactions.STATE_QUERY,
    "prepared transactions": transactions.PREPARED_QUERY,
    "old transactions": transactions.OLD_QUERY,
    "transactions forgotten": transactions.FORGET_QUERY,
    "turn of a router": transactions.TURN_QUERY,
    "migrations": state.READ,
    "migration written": state.WRITE,
    "migration removed": state.REMOVE,
    "migration logged": state.LOG,
    "migrations running": state.INSTALLED_AND_RUNNING,
    "lock held by": state.holders(-1),
    "lock tried": state.try_lock(-1),
    "time for migrations": session._TAKE_TIME,
    "blockers of a migration": locks.BLOCKERS,
    "index": indexes._INDEX,
    "index built": indexes._BUSY,
    "invalid indexes": indexes.INVALID,
    "partition detached": indexes._DETACHING,
    "sequences": contents._OWNED,
    "names": contents._NAMES,
    "time": transfer.TIME,
    "written": handle._WRITTEN_QUERY,
    "replayed": checkout._REPLAYED_QUERY,
}


def open_names(query: str) -> Iterator[str]:
    """What the server would look for along the search_path."""
    for tree in parse(re.sub(r"%(\(\w+\))?s", "$1", query).replace("%%", "%")):
        for found in walk(tree):
            match kind(found):
                case "FuncCall" | "A_Expr":
                    names = strings(found.funcname if kind(found) == "FuncCall" else found.name)
                    # What looks for an operator of its own name: IN, BETWEEN, LIKE, IS DISTINCT FROM, NULLIF.
                    is_named = kind(found) == "FuncCall" or found.kind in (1, 2, 3)
                    if len(names) < 2 or not is_named:
                        yield " ".join(names) + ("" if is_named else " without a name")
                case "TypeName" if len(found.names) < 2:
                    yield f"type {strings(found.names)[0]}"
                case "SubLink" if found.HasField("testexpr") and len(found.oper_name) < 2:
                    yield "IN (SELECT …)"
                case "JoinExpr" if found.using_clause or found.is_natural:
                    yield "USING"
                case "RangeVar" if not found.schemaname and found.relname not in _ctes(tree):
                    yield f"table {found.relname}"


def _ctes(tree: object) -> set[str]:
    return {found.ctename for found in walk(tree) if kind(found) == "CommonTableExpr"}


@pytest.mark.parametrize("name", QUERIES)
def test_every_name_in_the_queries_of_shardpool_itself_has_its_schema(name: str) -> None:
    assert list(open_names(QUERIES[name])) == []


def test_open_names_are_found() -> None:
    found = list(open_names("select max(a)::text from t where a = 1 and b in (select 1) and c is distinct from 2"))
    assert sorted(found) == sorted(["max", "type text", "table t", "=", "IN (SELECT …)", "= without a name"])


def test_operators_between_blanks_get_their_schema() -> None:
    assert qualified("select a -> 'b' from t where c <> 1") == (
        "select a operator(pg_catalog.->) 'b' from t where c operator(pg_catalog.<>) 1"
    )
    assert qualified("select * from t -- a remark") == "select * from t -- a remark"
