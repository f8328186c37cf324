"""Trees are read, copied and written as the parser's own protobuf messages say the same."""

from __future__ import annotations

from typing import Any

import postgast
import pytest

from shardpool.query.text import parser
from shardpool.query.text.codec import TooDeep, encoded, is_read_as, read
from shardpool.query.text.statement import deparse, inner, parse, walk
from shardpool.query.text.tree import copy, put, without_places

from .golden import SUBJECTS, cases


def _statements() -> set[str]:
    return {case["sql"] for subject in SUBJECTS for case in cases(subject)}


def test_trees_hold_what_protobuf_holds() -> None:
    for sql in _statements():
        try:
            found = read(sql)
        except (parser.ParserError, TooDeep):
            continue
        wanted = postgast.parse(sql)
        assert len(found) == len(wanted.stmts)
        for ours, theirs in zip(found, wanted.stmts, strict=True):
            alone = postgast.pg_query_pb2.ParseResult()
            alone.stmts.add().stmt.CopyFrom(theirs.stmt)
            written = alone.SerializeToString(deterministic=True)
            assert encoded(ours) == encoded(copy(ours)) == written, sql
            assert is_read_as(sql, ours) is (len(found) == 1)


def test_words_are_those_of_the_scanner() -> None:
    for sql in sorted(_statements())[:100]:
        wanted = [(token.token, token.start, token.end) for token in postgast.scan(sql).tokens]
        assert [tuple(token) for token in parser.scan(sql)] == wanted


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select a", "select b"),
        ("select a", "select a, a"),
        ("select a", "select a limit 1"),
        ("select a limit 1", "select a"),
        ("select 0", "select 1"),
        ("select ''", "select 'x'"),
        ("select a from t", "select a from only t"),
        ("select a union select b", "select a union all select b"),
        ("select distinct a", "select distinct on (a) a"),
    ],
)
def test_what_is_said_otherwise_is_told_apart(one: str, other: str) -> None:
    assert is_read_as(one.upper().replace("A", "a").replace("B", "b").replace("T", "t"), read(one)[0])
    assert not is_read_as(other, read(one)[0])
    assert without_places(read(one)[0]) != without_places(read(other)[0])


def test_a_message_that_is_not_set_is_set_by_a_change_below_it() -> None:
    select = parse("select 1")[0]
    assert not select.HasField("where_clause") and not select.with_clause.ctes and not select.HasField("with_clause")
    column = select.where_clause.column_ref.fields.add().string
    assert select.HasField("where_clause") and select.where_clause.WhichOneof("node") == "column_ref"
    column.sval = "a"
    assert deparse(select) == "SELECT 1 WHERE a"
    put(select.where_clause, inner(parse("select b")[0].target_list[0].res_target.val))
    assert deparse(select) == "SELECT 1 WHERE b"
    select.ClearField("where_clause")
    assert deparse(select) == "SELECT 1"


def test_a_constant_is_of_one_kind() -> None:
    const: Any = inner(parse("select 1")[0].target_list[0].res_target.val)
    assert const.WhichOneof("val") == "ival"
    const.sval.sval = "x"
    assert const.WhichOneof("val") == "sval" and not const.HasField("ival")


def test_copies_are_apart() -> None:
    first = parse("select a from t where b = 1")[0]
    second = copy(first)
    for found in walk(second):
        if type(found).__name__ == "String":
            found.sval = "z"
    assert deparse(first) == "SELECT a FROM t WHERE b = 1"
