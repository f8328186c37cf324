"""The bucket functions on a server give the buckets that Python gives."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from shardpool.control.buckets import bucket_function, create_bucket_function, key_columns, owned_buckets
from shardpool.control.contract import self_test_query
from shardpool.control.identity import CONTROL_VERSION, IDENTITY_QUERY, NOT_INSTALLED_SQLSTATES, check_identity
from shardpool.control.install import install_statements
from shardpool.control.rows import misplaced_rows_query
from shardpool.errors import KeyNotCovered
from shardpool.partitioning import (
    Hash,
    HashFunction,
    KeyType,
    List,
    Partitioning,
    Range,
    canonical_key,
    encode_key,
    key_text,
)
from shardpool.topology import Endpoint, Keyspace, OwnerRange, Shard, Topology

pytestmark = pytest.mark.servers

KEYS = 100_000
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _text(rng: random.Random) -> str:
    size = rng.randrange(0, 40)
    kind = rng.randrange(3)
    if kind == 0:
        return "".join(chr(rng.randrange(1, 128)) for _ in range(size))
    return "".join(chr(_scalar(rng, 0x3000 if kind == 1 else 0x110000)) for _ in range(size))


def _scalar(rng: random.Random, below: int) -> int:
    while 0xD800 <= (code := rng.randrange(1, below)) < 0xE000:
        pass
    return code


RANDOM: dict[KeyType, Callable[[random.Random], Any]] = {
    "bigint": lambda rng: rng.randrange(-(2**63), 2**63) >> rng.randrange(0, 63),
    "text": _text,
    "uuid": lambda rng: UUID(int=rng.getrandbits(128)),
    "bytea": lambda rng: rng.randbytes(rng.randrange(0, 40)),
    "date": lambda rng: date.fromordinal(rng.randrange(1, date.max.toordinal() + 1)),
    "timestamptz": lambda rng: _FIRST + timedelta(microseconds=rng.randrange((_LAST - _FIRST) // timedelta.resolution)),
}
EXTREMES: dict[KeyType, list[Any]] = {
    "bigint": [0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, -(2**32), 2**63 - 1, -(2**63)],
    "text": ["", "\x01", "é", "é", "\ufffd", "\U0010ffff", "x" * 1000, "'", "\\", "%s", "$body$"],
    "uuid": [UUID(int=0), UUID(int=2**128 - 1), UUID(int=1)],
    "bytea": [b"", b"\0", b"\0" * 13, b"\xff" * 12, bytes(range(256))],
    "date": [date.min, date.max, date(2000, 1, 1), date(1999, 12, 31)],
    "timestamptz": [_FIRST, _LAST, _EPOCH, _EPOCH - timedelta.resolution],
}


def some_keys(key_type: KeyType, count: int, seed: int = 1) -> list[Any]:
    rng = random.Random(f"{key_type} {seed}")
    keys = EXTREMES[key_type] + [RANDOM[key_type](rng) for _ in range(count)]
    return keys[:count]


def composite_keys(key_types: tuple[KeyType, ...], count: int) -> list[Any]:
    return list(zip(*(some_keys(kind, count, seed) for seed, kind in enumerate(key_types)), strict=True))


def _shards() -> dict[str, Shard]:
    return {
        name: Shard(name, Endpoint(name, "primary", (("host", "localhost"), ("dbname", name)))) for name in ("s0", "s1")
    }


def _topology(epoch: int = 1, moved: bool = False, **partitionings: Partitioning) -> Topology:
    keyspaces = {}
    for name, partitioning in partitionings.items():
        last = partitioning.bucket_count - 1
        half = 0 if moved else last // 2
        owners = [OwnerRange(0, half, "s0", epoch)]
        if last > half:
            owners.append(OwnerRange(half + 1, last, "s1", epoch))
        columns = key_columns(partitioning.key_types)
        keyspaces[name] = Keyspace(name, partitioning, tuple(owners), {f"public.{name}": columns})
    return Topology("shop", epoch, _shards(), keyspaces)


def install(conn: psycopg.Connection[Any], topology: Topology, shard: str = "s0") -> None:
    with conn.transaction():
        for statement in install_statements(topology, shard):
            conn.execute(statement)


@pytest.fixture
def conn(server_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        conn.execute("SET client_encoding TO 'UTF8'")
        yield conn


def server_buckets(
    conn: psycopg.Connection[Any], name: str, key_types: tuple[KeyType, ...], keys: list[Any]
) -> list[int | None]:
    """The buckets of the keys, by the server's function of the keyspace `name`, in order."""
    columns = key_columns(key_types)
    declared = ", ".join(f"{column} {kind}" for column, kind in zip(columns, key_types, strict=True))
    conn.execute(f"CREATE TEMP TABLE sent (number integer, {declared})")
    with conn.cursor().copy("COPY sent FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int4", *key_types])
        for number, key in enumerate(keys):
            copy.write_row((number, *(key if len(key_types) > 1 else (key,))))
    rows = conn.execute(f"SELECT {bucket_function(name)}({', '.join(columns)}) FROM sent ORDER BY number").fetchall()
    conn.execute("DROP TABLE sent")
    return [row[0] for row in rows]


def python_bucket(partitioning: Partitioning, key: Any) -> int | None:
    try:
        return partitioning.bucket(key)
    except KeyNotCovered:
        return None


def mismatches(conn: psycopg.Connection[Any], name: str, partitioning: Partitioning, keys: list[Any]) -> list[Any]:
    there = server_buckets(conn, name, partitioning.key_types, keys)
    here = [python_bucket(partitioning, key) for key in keys]
    return [(key, h, t) for key, h, t in zip(keys, here, there, strict=True) if h != t][:5]


@pytest.mark.parametrize("function", ["murmur3", "postgres"])
@pytest.mark.parametrize("key_type", list(RANDOM))
def test_server_and_python_give_every_key_the_same_hash_bucket(
    conn: psycopg.Connection[Any], key_type: KeyType, function: HashFunction
) -> None:
    keys = some_keys(key_type, KEYS)
    pinned = (keys[0], keys[3])
    for buckets in (4096, 1000):
        partitioning = Hash((key_type,), function, buckets, pinned)
        install(conn, _topology(**{f"by_{buckets}": partitioning}))
        sample = keys if buckets == 4096 else keys[:2000]
        assert mismatches(conn, f"by_{buckets}", partitioning, sample) == []


@pytest.mark.parametrize("function", ["murmur3", "postgres"])
@pytest.mark.parametrize(
    "key_types", [("bigint", "text"), ("uuid", "date", "timestamptz"), ("bytea", "bytea"), ("text", "bigint")]
)
def test_server_and_python_give_every_composite_key_the_same_bucket(
    conn: psycopg.Connection[Any], key_types: tuple[KeyType, ...], function: HashFunction
) -> None:
    keys = composite_keys(key_types, 20_000)
    partitioning = Hash(key_types, function, 4096, (keys[5], keys[7]))
    install(conn, _topology(composite=partitioning))
    assert mismatches(conn, "composite", partitioning, keys) == []


@pytest.mark.parametrize("unbounded", [True, False])
@pytest.mark.parametrize("key_type", list(RANDOM))
def test_server_and_python_give_every_key_the_same_range(
    conn: psycopg.Connection[Any], key_type: KeyType, unbounded: bool
) -> None:
    bounds = sorted({canonical_key(key, (key_type,)) for key in some_keys(key_type, 50, seed=2)})  # type: ignore[type-var]
    partitioning = Range((key_type,), (*bounds, None) if unbounded else tuple(bounds[:-2]))
    install(conn, _topology(ranges=partitioning))
    assert mismatches(conn, "ranges", partitioning, [*some_keys(key_type, 10_000), *bounds]) == []


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("key_type", list(RANDOM))
def test_server_and_python_give_every_listed_value_the_same_bucket(
    conn: psycopg.Connection[Any], key_type: KeyType, default: bool
) -> None:
    keys = list(dict.fromkeys(some_keys(key_type, 2000)))
    partitioning = List((key_type,), tuple(keys[:100]), default)
    install(conn, _topology(listed=partitioning))
    assert mismatches(conn, "listed", partitioning, keys) == []


def test_server_gives_null_to_what_no_router_could_place(conn: psycopg.Connection[Any]) -> None:
    days, moments = Hash(("date",)), List(("timestamptz",), (), default=True)
    pairs = Hash(("bigint", "text"))
    install(conn, _topology(days=days, moments=moments, pairs=pairs))
    row = conn.execute(
        "SELECT shardpool.bucket_days('infinity'), shardpool.bucket_days('0001-01-01 BC'), shardpool.bucket_days(NULL),"
        " shardpool.bucket_moments('-infinity'), shardpool.bucket_moments('10000-01-01 00:00:00+00'),"
        " shardpool.bucket_pairs(1, NULL), shardpool.bucket_pairs(NULL, 'x')"
    ).fetchone()
    assert row == (None,) * 7


@pytest.mark.parametrize("key_types", [(kind,) for kind in RANDOM] + [("bigint", "text"), ("uuid", "date", "bytea")])
def test_function_postgres_is_the_partition_that_a_partitioned_table_chooses(
    conn: psycopg.Connection[Any], key_types: tuple[KeyType, ...]
) -> None:
    modulus = 7
    columns = key_columns(key_types)
    declared = ", ".join(f"{column} {kind}" for column, kind in zip(columns, key_types, strict=True))
    conn.execute(f"CREATE TABLE parts (number integer, {declared}) PARTITION BY HASH ({', '.join(columns)})")
    for at in range(modulus):
        conn.execute(f"CREATE TABLE p{at} PARTITION OF parts FOR VALUES WITH (MODULUS {modulus}, REMAINDER {at})")
    keys = composite_keys(key_types, 5000) if len(key_types) > 1 else some_keys(key_types[0], 5000)
    with conn.cursor().copy("COPY parts FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int4", *key_types])
        for number, key in enumerate(keys):
            copy.write_row((number, *(key if len(key_types) > 1 else (key,))))
    there = conn.execute("SELECT substr(tableoid::regclass::text, 2)::int FROM parts ORDER BY number").fetchall()
    partitioning = Hash(key_types, "postgres", modulus)
    assert [row[0] for row in there] == [partitioning.bucket(key) for key in keys]


@pytest.mark.parametrize("key_type", list(RANDOM))
def test_server_reads_and_encodes_the_text_of_a_key_as_python_does(
    conn: psycopg.Connection[Any], key_type: KeyType
) -> None:
    install(conn, _topology())
    conn.execute("SET DateStyle TO 'SQL, DMY'")
    conn.execute("SET TimeZone TO 'America/St_Johns'")
    keys = [canonical_key(key, (key_type,)) for key in some_keys(key_type, 200)]
    texts = [key_text(key) for key in keys]  # type: ignore[arg-type]
    rows = conn.execute(
        f"SELECT shardpool.encode_key(key::{key_type}) FROM unnest(%s::text[]) WITH ORDINALITY AS sent (key, number)"
        " ORDER BY number",
        (texts,),
    ).fetchall()
    assert [row[0] for row in rows] == [encode_key(key, key_type) for key in keys]


@pytest.mark.parametrize("function", ["murmur3", "postgres"])
def test_server_gives_the_frozen_vectors_their_buckets(conn: psycopg.Connection[Any], function: HashFunction) -> None:
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text(encoding="utf-8"))["vectors"]
    kinds = {tuple(vector["type"]) for vector in vectors}
    install(conn, _topology(**{"_".join(kind): Hash(kind, function) for kind in kinds}))
    expected = "bucket" if function == "murmur3" else "postgres_bucket"
    for vector in vectors:
        parts = ", ".join(f"%s::text::{kind}" for kind in vector["type"])
        query = f"SELECT {bucket_function('_'.join(vector['type']))}({parts})"
        assert conn.execute(query, vector["value"]).fetchone() == (vector[expected],), vector


COERCED_TEXTS: list[tuple[KeyType, str]] = [
    ("bigint", " +42\t"),
    ("bigint", "-0007"),
    ("bigint", "0" * 30 + "9"),
    ("uuid", "{A0EEBC99-9C0B4EF8-BB6D6BB9-BD380A11}"),
    ("uuid", "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
    ("uuid", "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11"),
    ("bytea", "\\xDEADbeef"),
    ("date", " 2025-02-03 "),
    ("date", "0001-01-01"),
    ("timestamptz", "2025-02-03 04:05:06Z"),
    ("timestamptz", "2025-02-03T04:05:06.5+05:30"),
    ("timestamptz", " 2025-02-03 04:05-03"),
    ("timestamptz", "2025-02-03 04:05:06.000001 +0130"),
    ("timestamptz", "0001-02-03 04:05:06-15:59"),
]


@pytest.mark.parametrize(("key_type", "text"), COERCED_TEXTS)
@pytest.mark.parametrize("style", ["ISO, MDY", "SQL, DMY", "German, YMD", "Postgres, DMY"])
def test_text_that_python_coerces_is_the_same_value_on_the_server(
    conn: psycopg.Connection[Any], key_type: KeyType, text: str, style: str
) -> None:
    install(conn, _topology())
    conn.execute(f"SET DateStyle TO '{style}'")
    conn.execute("SET TimeZone TO 'Asia/Kathmandu'")
    row = conn.execute(f"SELECT shardpool.encode_key(%s::text::{key_type})", (text,)).fetchone()
    assert row == (encode_key(text, key_type),)


def test_bucket_function_ignores_the_collation_of_its_column(conn: psycopg.Connection[Any]) -> None:
    for collation in _collations(conn):
        _check_collation(conn, collation)


def _collations(conn: psycopg.Connection[Any]) -> list[str]:
    """Some of the server's collations, and one by which different texts are equal where it can be made."""
    with suppress(psycopg.errors.FeatureNotSupported):
        conn.execute("CREATE COLLATION fuzzy (provider = icu, locale = 'und-u-ks-level1', deterministic = false)")
    names = ["C", "POSIX", "ucs_basic", "unicode", "pg_c_utf8", "en_US.utf8", "C.utf8", "fuzzy"]
    found = conn.execute("SELECT quote_ident(collname) FROM pg_collation WHERE collname = ANY(%s)", (names,)).fetchall()
    return [name for (name,) in found]


def _check_collation(conn: psycopg.Connection[Any], collation: str) -> None:
    ranges, listed = Range(("text",), ("B", "a", "z", None)), List(("text",), ("a", "A", "ä"), default=True)
    install(conn, _topology(ranges=ranges, listed=listed))
    keys = ["A", "a", "b", "B", "ä", "Z", "z", "é"]
    rows = conn.execute(
        "SELECT key, shardpool.bucket_ranges(key), shardpool.bucket_listed(key)"
        f" FROM (SELECT k COLLATE {collation} AS key FROM unnest(%s::text[]) AS k) AS keys",
        (keys,),
    ).fetchall()
    assert rows == [(key, ranges.bucket(key), listed.bucket(key)) for key in keys]


ODD_NAME = 'it\'s "odd" \\ 100% $body$ naïve'


def _odd_topology() -> Topology:
    partitionings: dict[str, Partitioning] = {
        ODD_NAME: Hash(("text", "bigint"), "murmur3", 64, (("o'\\x", 1), ('"', -1))),
        "x" * 80: List(("text",), ("$$", "$body$", "a'b", "\\"), default=True),
        "days": Range(("date",), (date(2025, 1, 1), date(2026, 1, 1))),
    }
    return _topology(**partitionings)


def test_install_can_be_repeated_and_passes_its_own_self_test(conn: psycopg.Connection[Any]) -> None:
    topology = _odd_topology()
    install(conn, topology)
    before = conn.execute(
        "SELECT xmin::text FROM shardpool.self UNION ALL SELECT xmin::text FROM shardpool.owner"
    ).fetchall()
    install(conn, topology)
    after = conn.execute(
        "SELECT xmin::text FROM shardpool.self UNION ALL SELECT xmin::text FROM shardpool.owner"
    ).fetchall()
    assert before == after
    assert conn.execute(self_test_query(topology)).fetchone() == (0,)


def test_self_test_counts_what_differs(conn: psycopg.Connection[Any]) -> None:
    topology = _topology(tenants=Hash(("bigint",)))
    install(conn, topology)
    conn.execute(create_bucket_function("tenants", Hash(("bigint",), "postgres")))
    row = conn.execute(self_test_query(topology)).fetchone()
    assert row is not None
    assert row[0] > 0
    conn.execute("DELETE FROM shardpool.hash_contract")
    assert conn.execute(self_test_query(topology)).fetchone() == (1,)


def test_identity_of_an_installed_shard_has_no_problem(conn: psycopg.Connection[Any]) -> None:
    topology = _odd_topology()
    install(conn, topology)
    row = conn.execute(IDENTITY_QUERY).fetchone()
    assert row is not None
    assert row[:4] == ("shop", "s0", CONTROL_VERSION, 1)
    assert check_identity(row, topology, "s0") is None
    assert "not shard" in (check_identity(row, topology, "s1") or "")


def test_identity_of_a_server_without_control_schema_fails_with_a_known_sqlstate(
    conn: psycopg.Connection[Any],
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(IDENTITY_QUERY)
    assert caught.value.sqlstate in NOT_INSTALLED_SQLSTATES


def test_install_refuses_a_server_that_is_another_shard(conn: psycopg.Connection[Any]) -> None:
    topology = _topology()
    install(conn, topology, "s0")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match='is shard "s0"'):
        install(conn, topology, "s1")


def test_install_refuses_to_change_how_keys_become_buckets(conn: psycopg.Connection[Any]) -> None:
    install(conn, _topology(tenants=Hash(("bigint",), buckets=4096)))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="in another way"):
        install(conn, _topology(2, tenants=Hash(("bigint",), buckets=8192)))


def test_install_refuses_an_older_epoch_and_other_owners_of_the_same_epoch(conn: psycopg.Connection[Any]) -> None:
    tenants = Hash(("bigint",))
    install(conn, _topology(5, tenants=tenants))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="of epoch 5"):
        install(conn, _topology(4, tenants=tenants))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="other owners"):
        install(conn, _topology(5, moved=True, tenants=tenants))
    install(conn, _topology(6, moved=True, tenants=tenants))
    assert conn.execute(
        "SELECT first_bucket, last_bucket, shard, epoch FROM shardpool.owner ORDER BY 1"
    ).fetchall() == [
        (0, 0, "s0", 5),
        (1, 2047, "s1", 6),
        (2048, 4095, "s1", 5),
    ]


def test_install_takes_new_pins_of_the_same_contract(conn: psycopg.Connection[Any]) -> None:
    install(conn, _topology(1, tenants=Hash(("bigint",))))
    pinned = Hash(("bigint",), pinned=(42,))
    install(conn, _topology(2, tenants=pinned))
    assert conn.execute("SELECT shardpool.bucket_tenants(42)").fetchone() == (4096,)


def test_misplaced_rows_query_counts_rows_of_other_shards_and_of_none(conn: psycopg.Connection[Any]) -> None:
    tenants = Hash(("bigint",))
    topology = _topology(tenants=tenants)
    install(conn, topology)
    conn.execute("CREATE TABLE tenants (key integer)")
    conn.execute("INSERT INTO tenants SELECT generate_series(1, 1000) UNION ALL SELECT NULL")
    keyspace = topology.keyspaces["tenants"]
    owned = owned_buckets(keyspace, "s0")
    expected = sum(tenants.bucket(key) > 2047 for key in range(1, 1001))
    query = misplaced_rows_query(keyspace, "public.tenants", owned)
    assert conn.execute(query).fetchone() == (expected, 1)
    assert conn.execute(misplaced_rows_query(keyspace, "public.tenants", [])).fetchone() == (1000, 1)


def test_an_application_role_can_ask_for_identity_and_buckets_but_not_install(conn: psycopg.Connection[Any]) -> None:
    topology = _topology(tenants=Hash(("bigint",)))
    install(conn, topology)
    conn.execute("CREATE ROLE shop_app")
    conn.execute("GRANT shop_app TO CURRENT_USER")
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL ROLE shop_app")
            assert check_identity(conn.execute(IDENTITY_QUERY).fetchone(), topology, "s0") is None
            assert conn.execute("SELECT shardpool.bucket_tenants(1)").fetchone() == (Hash(("bigint",)).bucket(1),)
            with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
                conn.execute("SELECT shardpool.install_self('shop', 's1')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
                conn.execute("DELETE FROM shardpool.owner")
    finally:
        conn.execute("DROP ROLE shop_app")


def test_bucket_function_can_be_an_index_expression_and_runs_in_parallel(conn: psycopg.Connection[Any]) -> None:
    install(conn, _topology(tenants=Hash(("bigint",), pinned=(3,)), stores=Hash(("text",))))
    conn.execute("CREATE TABLE t (tenant_id bigint, store text)")
    conn.execute("CREATE INDEX ON t (shardpool.bucket_tenants(tenant_id), shardpool.bucket_stores(store))")
    row = conn.execute("SELECT bool_and(proparallel = 's') FROM pg_proc WHERE proname LIKE 'bucket_%'").fetchone()
    assert row == (True,)
