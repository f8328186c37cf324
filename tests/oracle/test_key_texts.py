"""Odd texts as keys: read as PostgreSQL reads them, under whatever settings, or refused, with its SQLSTATE if any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool import InvalidKey, Router
from shardpool.errors import ShardpoolError
from shardpool.keys import KEY_TYPES, KeyType, canonical_key

TEXTS: dict[KeyType, list[str]] = {
    "bigint": (
        "0|-0|+7| 7 |\t7\n|007|0000000000000000000000000000007|9223372036854775807|"
        "9223372036854775808|-9223372036854775808"
        "|-9223372036854775809|99999999999999999999999999|abc||  |1.0|1e3|0x1F|0b1|1_000|_1|1_|+|"
        "--1|1 2|½|٣|infinity"
    ).split("|"),
    "text": ["", " ", "5", "é", "e\u0301", "\\x41", "'", "a\nb"],
    "uuid": (
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|A0EEBC999C0B4EF8BB6D6BB9BD380A11|"
        "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}"
        "|a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11| a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|"
        "{a0eebc999c0b4ef8bb6d6bb9bd380a11"
        "|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1|g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11||urn:uuid:a0eebc99"
    ).split("|"),
    "bytea": (r"abc||\xdeadbeef|\xDE ad|\xde a|\x|\xd|\xzz|\X41|a\\b|\000|\101\377|\400|\8|\1|x\|é|\x é").split("|"),
    "date": (
        "2025-01-04|20250104|2025-5-9|2025/05/09|2025/5-9| 2025-05-09 |2025-02-29|2024-02-29|"
        "2025-13-01|20251301|2025-1-32"
        "|0000-01-01|0001-01-01|10000-01-01|99-01-08|1/8/1999|01-02-03|January 8, 1999|J2451187|"
        "1999.008|infinity|-infinity"
        "|epoch|today|abc||-|2025-05|2025|20250|2025-05-09 12:00|2025-05-09 BC|٢٠٢٥-٠١-٠١|2025-0005-09"
    ).split("|"),
    "timestamptz": (
        "2024-01-01 00:00|2024-01-01 00:00+00|2024-01-01T00:00:00Z|"
        "2024-01-01 00:00:00.123456789+00|2024-01-01 00:00+15:59"
        "|2024-01-01 00:00+16|2024-01-01|2024-02-30 00:00+00|2024-01-01 24:00+00|"
        "2024-01-01 25:00+00|2024-01-01 00:60+00"
        "|2024-01-01 00:00:60+00|infinity|-infinity|now|abc||-|20240101T000000Z|"
        "2024-01-01 00:00 PST|0001-01-01 00:00+01"
        "|2024-01-01 00:00:00.5-0330|2024-1-1 0:00+00"
    ).split("|"),
}
SETTINGS = [
    ("ISO, MDY", "UTC"),
    ("ISO, DMY", "Asia/Kathmandu"),
    ("SQL, YMD", "America/New_York"),
    ("German", "Europe/Berlin"),
]


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_text_is_the_key_that_the_server_reads_or_refused(shardpool_database: str, key_type: KeyType) -> None:
    with psycopg.connect(shardpool_database, autocommit=True) as conn:
        for style, zone in SETTINGS:
            conn.execute("select set_config('datestyle', %s, false), set_config('timezone', %s, false)", (style, zone))
            for text in TEXTS[key_type]:
                assert_read_alike(conn, key_type, text)


def assert_read_alike(conn: psycopg.Connection[Any], key_type: KeyType, text: str) -> None:
    query = f"select pg_typeof(v)::text, v = %s::{key_type} from (select %s::text::{key_type} as v) s"
    if key_type == "timestamptz":
        query = "select pg_typeof(v)::text, v = %s from (select %s::text::timestamptz as v) s"
    try:
        ours = canonical_key(text, (key_type,))
    except InvalidKey as refused:
        if refused.sqlstate is not None:
            with pytest.raises(psycopg.Error) as raised:
                conn.execute(query, (None, text))
            assert raised.value.sqlstate == refused.sqlstate, text
        return
    found = conn.execute(query, (ours, text)).fetchone()
    assert found is not None and found[1] is True, (text, ours)


def test_the_forms_that_everybody_writes_are_taken() -> None:
    assert str(canonical_key("20250104", ("date",))) == "2025-01-04"
    assert str(canonical_key("2025-5-9", ("date",))) == "2025-05-09"
    assert canonical_key("abc", ("bytea",)) == b"abc"
    assert canonical_key(r"\xdeadbeef", ("bytea",)) == bytes.fromhex("deadbeef")


@pytest.mark.parametrize(
    ("key_type", "text", "sqlstate"),
    [
        ("bigint", "abc", "22P02"),
        ("bigint", "9223372036854775808", "22003"),
        ("uuid", "abc", "22P02"),
        ("date", "2025-02-29", "22008"),
        ("date", "infinity", None),
        ("timestamptz", "2024-01-01 00:00", None),
        ("bytea", r"\xd", "22023"),
    ],
)
def test_a_refusal_has_the_state_of_the_servers_own(key_type: KeyType, text: str, sqlstate: str | None) -> None:
    with pytest.raises(InvalidKey) as raised:
        canonical_key(text, (key_type,))
    assert raised.value.sqlstate == sqlstate


KEYSPACES = """\
keyspaces:
  names:
    key: text
    hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}
    tables: {notes: slug}
  days:
    key: date
    hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}
    tables: {visits: day}
"""
SCHEMA = "create table notes (slug text primary key, n int); create table visits (day date primary key, n int);"


def test_keys_in_sql_are_read_alike(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> None:
    with (
        Router(shardpool_make_topology(KEYSPACES, SCHEMA)) as router,
        psycopg.connect(shardpool_database, autocommit=True) as plain,
    ):
        plain.execute(SCHEMA)
        cases: list[tuple[str, Any]] = [
            ("insert into notes values (5, 1), ('6', 2), (-7, 3)", None),
            ("insert into notes values (%s, 4)", (8,)),
            ("insert into visits values ('20250104', 1), ('2025-5-9', 2)", None),
            ("insert into visits values (%s, 3)", ("2025/6/7",)),
            ("select n from visits where day = '20250509'", None),
            ("select n from visits where day = %s", ("2025-6-7",)),
            ("select n from notes where slug = '5'", None),
            ("select n from notes where slug = 5", None),
            ("select n from notes where slug = %s", (5,)),
            ("select n from visits where day = 'abc'", None),
            ("select n from visits where day = '2025-02-30'", None),
            ("insert into visits values ('2025-02-30', 1)", None),
            ("insert into visits values ('abc', 1)", None),
            ("select * from unknown", None),
        ]
        for sql, params in cases:
            try:
                expected: Any = plain.execute(sql, params)
            except psycopg.Error as error:
                with pytest.raises((psycopg.Error, ShardpoolError)) as raised:
                    router.execute(sql, params)
                assert getattr(raised.value, "sqlstate", None) == error.sqlstate, sql
            else:
                found = router.execute(sql, params)
                assert found.rowcount == expected.rowcount, sql
                assert not expected.description or found.rows == expected.fetchall(), sql
        ours = router.execute("select slug, n from notes order by n").rows
        assert ours == plain.execute("select slug, n from notes order by n").fetchall()
        assert [found for found in router.check().findings if "lie here" in found.message] == []
