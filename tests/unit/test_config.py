"""The topology file: what a good one gives, and what a wrong one is told."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from shardpool.config import describe, load_topology, parse_topology, topology_schema
from shardpool.errors import ConfigError, Problem
from shardpool.partitioning import Hash, List, Range
from shardpool.topology import OwnerRange, PoolSettings, Secret, Topology

ROOT = Path(__file__).parents[2]
CASES = sorted((Path(__file__).parent / "config_errors").glob("*.yaml"))
ENV = {"SHOP_DB_PASSWORD": "hunter2", "EMPTY": "", "SHOP_DB_URL": "postgresql://app:hunter2@127.0.0.1/d"}
HEAD = "version: 1\nfleet: shop\nepoch: 3\n"
SHARDS = "shards:\n  s0: {primary: {host: 127.0.0.1, dbname: a}}\n  s1: {primary: {host: 127.0.0.1, dbname: b}}\n"


def parse(text: str, **env: str) -> Topology:
    return parse_topology(HEAD + text, env=ENV | env)


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_every_problem_of_a_file_is_told_with_its_place_and_a_hint(case: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_topology(case.read_text(), file=case.name, env=ENV)
    told = "".join(f"{problem}\n" for problem in caught.value.problems)
    assert told == case.with_suffix(".expected").read_text()
    assert all(problem.line and problem.column and problem.hint for problem in caught.value.problems)
    assert "hunter2" not in told


def test_problems_are_in_file_order_and_counted() -> None:
    with pytest.raises(ConfigError, match="3 problems in the topology") as caught:
        parse(SHARDS + "control: maybe\nsingle_tables: {a: s7}\nreference_tables: [a]\n")
    assert [problem.line for problem in caught.value.problems] == [7, 8, 9]


def test_an_unset_variable_hides_nothing_else() -> None:
    found = problems_of('shards:\n  s0: {primary: {host: "${NONE}", port: 0}}\nreference_tables: [a, a]\n')
    assert [problem.path for problem in found] == [
        "shards.s0.primary.host",
        "shards.s0.primary.port",
        "reference_tables[1]",
    ]


def test_what_is_wrong_with_a_shard_is_not_told_again_where_it_is_named() -> None:
    found = problems_of("shards: {s0: {primary: 5}}\nsingle_tables: {a: s0}\n")
    assert [problem.path for problem in found] == ["shards.s0.primary"]


def test_a_file_that_is_not_there_or_not_utf8_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_topology(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"version: 1\n# na\xefve\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2:5: not UTF-8"):
        load_topology(latin)


def test_the_environment_is_used_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DB_PASSWORD", "from the environment")
    topology = load_topology(ROOT / "config" / "topology.yaml")
    assert topology.shard("s0").primary.password == Secret("from the environment")


def test_the_example_is_the_fleet_of_docker_compose() -> None:
    topology = load_topology(ROOT / "config" / "topology.yaml", env=ENV)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    published = {service["ports"][0].split(":")[1] for service in compose["services"].values()}
    endpoints = [endpoint for shard in topology.shards.values() for endpoint in shard.endpoints]
    assert {endpoint.param("port") for endpoint in endpoints} == published
    assert {endpoint.param("user") for endpoint in endpoints} == {"app"}
    assert [endpoint.name for endpoint in topology.shard("s0").endpoints] == ["primary", "replica-1"]


def test_the_example_has_every_kind_of_keyspace_and_table() -> None:
    topology = load_topology(ROOT / "config" / "topology.yaml", env=ENV)
    tenants, events, regions = topology.keyspaces.values()
    assert tenants.partitioning == Hash(("bigint",), "murmur3", 4096, (17,))
    assert tenants.shard_by_bucket[3000:3005] == ("s2", "s3", "s3", "s2", "s3")
    assert tenants.shard_by_bucket[4096] == "s3"
    assert events.partitioning == Range(("date",), (date(2025, 1, 1), date(2026, 1, 1), None))
    assert events.owners == (OwnerRange(0, 0, "s0", 1), OwnerRange(1, 1, "s1", 1), OwnerRange(2, 2, "s2", 1))
    assert regions.partitioning == List(("text",), ("de", "fr", "us", "ca"), default=True)
    assert regions.shard_by_bucket == ("s0", "s0", "s1", "s1", "s2")
    assert topology.reference_tables == ("public.countries", "public.currencies")
    assert topology.single_tables == {"public.audit_log": "s0"}
    assert topology.timeout == 5.0


def test_later_levels_override_earlier_ones_keyword_by_keyword() -> None:
    topology = parse(
        """
defaults: {connect: {user: app, dbname: shop, port: 6432}, pool: {max_size: 20, max_idle: 1m}, pooler: session}
shards:
  s0:
    connect: {port: 6433, application_name: shop}
    pool: {min_size: 2}
    primary: {host: 127.0.0.1, user: writer, pool: {max_size: 5}, pooler: none}
    replicas: [{host: 127.0.0.2, max_lag: 250ms}, {host: 127.0.0.3}]
    max_lag: 2
"""
    )
    primary, first, second = topology.shard("s0").endpoints
    assert dict(primary.params) == {
        "application_name": "shop",
        "connect_timeout": "3",
        "dbname": "shop",
        "host": "127.0.0.1",
        "port": "6433",
        "user": "writer",
    }
    assert primary.pool == PoolSettings(min_size=2, max_size=5, max_idle=60.0)
    assert (primary.pooler, first.pooler) == ("none", "session")
    assert (primary.max_lag, first.max_lag, second.max_lag) == (None, 0.25, 2.0)
    assert first.pool.max_size == 20


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "/var/run/postgresql", "@abstract"])
def test_this_machine_needs_no_tls(host: str) -> None:
    params = parse(f'shards: {{s0: {{primary: {{host: "{host}"}}}}}}').shard("s0").primary.params
    assert dict(params) == {"connect_timeout": "3", "host": host}


@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "127.example.com", "127.1", "localhost.example.com", "::2"])
def test_a_name_that_looks_like_this_machine_is_another(host: str) -> None:
    primary = parse(f'shards: {{s0: {{primary: {{host: "{host}"}}}}}}').shard("s0").primary
    assert (primary.param("sslmode"), primary.param("require_auth")) == ("verify-full", "scram-sha-256")


@pytest.mark.parametrize("mode", ["prefer", "allow"])
def test_tls_that_another_machine_may_talk_us_out_of_is_refused(mode: str) -> None:
    text = f"defaults: {{connect: {{sslmode: {mode}}}}}\nshards:\n  s0: {{primary: {{host: 127.0.0.1}}}}\n"
    assert parse(text).shard("s0").primary.param("sslmode") == mode
    for host in ("pg-1.internal", "127.0.0.1.example.com"):
        with pytest.raises(ConfigError, match=f"defaults.connect.sslmode: sslmode {mode} to another machine") as raised:
            parse(f"{text}  s1: {{primary: {{host: {host}}}}}\n  s2: {{primary: {{host: {host}, port: 2}}}}\n")
        assert len(raised.value.problems) == 1


def test_other_hosts_prove_who_they_are_unless_the_file_says_otherwise() -> None:
    topology = parse(
        """
shards:
  s0: {primary: {host: pg-0.internal}}
  s1: {primary: {host: pg-1.internal, sslmode: require, require_auth: "scram-sha-256,md5", connect_timeout: 9}}
  s2: {primary: {host: localhost, hostaddr: 10.0.0.1}}
  s3: {hosts: [{host: localhost}, {host: pg-3.internal}]}
"""
    )
    settings = {
        name: [shard.primary.param(keyword) for keyword in ("sslmode", "require_auth", "connect_timeout")]
        for name, shard in topology.shards.items()
    }
    safe = ["verify-full", "scram-sha-256", "3"]
    assert settings == {"s0": safe, "s1": ["require", "scram-sha-256,md5", "9"], "s2": safe, "s3": safe}


def test_a_url_is_read_like_a_mapping() -> None:
    topology = parse(
        """
shards:
  s0: {primary: "postgresql://app:p%40ss%2Fw%C3%B6rd@[::1]:6432/my%20shop?sslmode=disable&options=-c%20a%3Db"}
  s1: {primary: "postgres://"}
  s2: {primary: "postgresql://%2Fvar%2Frun/shop"}
plain_passwords: allow
"""
    )
    primary = topology.shard("s0").primary
    assert dict(primary.params) == {
        "connect_timeout": "3",
        "dbname": "my shop",
        "host": "::1",
        "options": "-c a=b",
        "port": "6432",
        "sslmode": "disable",
        "user": "app",
    }
    assert primary.password == Secret("p@ss/wörd")
    assert dict(topology.shard("s1").primary.params) == {"connect_timeout": "3"}
    assert topology.shard("s2").primary.param("host") == "/var/run"


def test_several_hosts_are_nodes_of_which_one_is_the_primary() -> None:
    topology = parse(
        """
defaults: {connect: {port: 6432}}
shards:
  s0: {hosts: [{host: a}, {host: b, port: 7000}], max_lag: 1s}
  s1: {hosts: [{host: c}]}
"""
    )
    shard = topology.shard("s0")
    found = [(node.name, node.role, node.param("host"), node.param("port"), node.max_lag) for node in shard.endpoints]
    assert found == [("node-1", "node", "a", "6432", 1.0), ("node-2", "node", "b", "7000", 1.0)]
    assert shard.finds_primary
    writable = shard.writable
    assert (writable.param("host"), writable.param("port")) == ("a,b", "6432,7000")
    assert (writable.role, writable.param("target_session_attrs")) == ("primary", "primary")
    one = topology.shard("s1")
    assert not one.finds_primary
    assert one.primary.param("target_session_attrs") == "primary"
    assert one.replicas == ()


def test_the_pools_on_one_server_share_its_connections() -> None:
    text = """
defaults: {server_connections: %d, pool: {min_size: 2, max_size: 10}}
shards:
  s0: {primary: {host: 127.0.0.1, dbname: a}}
  s1: {primary: {host: localhost, dbname: b}, pool: {max_size: 30}}
  s2: {primary: {host: localhost, port: 5433, dbname: c}}
"""
    pools = {name: shard.primary.pool for name, shard in parse(text % 12).shards.items()}
    assert {name: (pool.min_size, pool.max_size) for name, pool in pools.items()} == {
        "s0": (2, 3),
        "s1": (2, 8),
        "s2": (2, 10),
    }
    sizes = [shard.primary.pool.max_size for shard in parse(text % 2).shards.values()]
    assert sizes == [1, 1, 2]
    assert [shard.primary.pool.max_size for shard in parse(text % 40).shards.values()] == [10, 30, 10]
    with pytest.raises(ConfigError, match="1 connections for 2 endpoints on one server"):
        parse(text % 1)


def test_a_password_of_a_nearer_level_replaces_both_kinds(tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(
        HEAD
        + """
defaults: {connect: {password_file: secrets/shop}}
shards:
  s0: {primary: {host: 127.0.0.1, dbname: a}}
  s1: {primary: {host: 127.0.0.1, dbname: b, password: "${SHOP_DB_PASSWORD}"}}
  s2: {connect: {password_file: /run/secrets/s2}, primary: {host: 127.0.0.1, dbname: c}}
"""
    )
    shards = load_topology(file, env=ENV).shards
    found = {name: (shard.primary.password, shard.primary.password_file) for name, shard in shards.items()}
    assert found == {
        "s0": (None, str(tmp_path / "secrets/shop")),
        "s1": (Secret("hunter2"), None),
        "s2": (None, "/run/secrets/s2"),
    }


def test_a_shard_may_be_on_another_database_of_the_same_server() -> None:
    assert len(parse(SHARDS).shards) == 2


@pytest.mark.parametrize(
    ("written", "seconds"), [("250ms", 0.25), ("5s", 5), ("1m", 60), ("2h", 7200), ("1.5", 1.5), ("7", 7), ("'7'", 7)]
)
def test_durations(written: str, seconds: float) -> None:
    assert parse(f"defaults: {{timeout: {written}}}\n{SHARDS}").timeout == pytest.approx(seconds)


def test_numbers_may_come_from_variables() -> None:
    topology = parse('defaults: {pool: {max_size: "${N}"}, connect: {port: "${P}"}}\n' + SHARDS, N="7", P="6000")
    primary = topology.shard("s0").primary
    assert (primary.pool.max_size, primary.param("port")) == (7, "6000")


KEYS = """
keyspaces:
  k: {key: %s, list: {s0: [%s]}}
"""


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("bigint", "-9223372036854775808", -(2**63)),
        ("bigint", "'42'", 42),
        ("text", "'no'", "no"),
        ("text", "2025-01-01", "2025-01-01"),
        ("date", "2025-01-01", date(2025, 1, 1)),
        ("bytea", "'\\x0aff'", b"\x0a\xff"),
        ("[text, bigint]", "[de, 1]", ("de", 1)),
    ],
)
def test_keys_are_read_as_the_keyspace_s_type(key: str, written: str, value: object) -> None:
    keyspace = parse(SHARDS + KEYS % (key, written)).keyspace("k")
    assert keyspace.partitioning == List(keyspace.key_types, (value,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("bigint", "9223372036854775808"),
        ("bigint", "9" * 5000),
        ("bigint", "true"),
        ("bigint", "null"),
        ("bigint", "1.5"),
        ("text", "42"),
        ("text", "{a: 1}"),
        ("uuid", "abc"),
        ("bytea", "0aff"),
        ("date", "2025-02-30"),
        ("timestamptz", "2025-01-01 12:00:00"),
        ("[text, bigint]", "[de, 1, 2]"),
        ("[text, bigint]", "de"),
    ],
)
def test_a_key_of_another_type_is_refused(key: str, written: str) -> None:
    (problem,) = problems_of(SHARDS + KEYS % (key, written))
    assert problem.path == "keyspaces.k.list.s0[0]"
    assert problem.hint


def test_pinned_keys_of_several_columns_are_a_list_of_entries() -> None:
    topology = parse(
        SHARDS
        + """
keyspaces:
  k:
    key: [bigint, text]
    hash: {buckets: 2, owners: {s0: 0-1}}
    pinned: [{key: [1, de], shard: s1}, {key: [2, fr], shard: s0}]
    tables: {t: [a, b]}
"""
    )
    keyspace = topology.keyspace("k")
    assert keyspace.partitioning == Hash(("bigint", "text"), "murmur3", 2, ((1, "de"), (2, "fr")))
    assert keyspace.shard_by_bucket == ("s0", "s0", "s1", "s0")
    assert keyspace.tables == {"public.t": ("a", "b")}


def test_a_range_without_an_open_end_leaves_higher_keys_without_a_shard() -> None:
    topology = parse(SHARDS + "keyspaces: {k: {key: bigint, range: [{below: 10, shard: s0}]}}")
    assert topology.keyspace("k").partitioning == Range(("bigint",), (10,))


def test_every_owner_entry_has_the_epoch_of_the_file() -> None:
    topology = parse(SHARDS + "keyspaces: {k: {key: bigint, hash: {buckets: 4, owners: {s0: [0, 2-3], s1: 1}}}}")
    assert topology.keyspace("k").owners == (
        OwnerRange(0, 0, "s0", 3),
        OwnerRange(1, 1, "s1", 3),
        OwnerRange(2, 3, "s0", 3),
    )


def test_describe_is_json_with_masked_passwords() -> None:
    described = describe(load_topology(ROOT / "config" / "topology.yaml", env=ENV))
    assert json.loads(json.dumps(described)) == described
    assert described["shards"]["s0"]["primary"]["password"] == "***"
    assert described["keyspaces"]["tenants"]["pinned"] == [17]
    assert described["keyspaces"]["events"]["bounds"] == ["2025-01-01", "2026-01-01", None]


def as_editors_read(path: Path) -> Any:
    """The file as JSON: dates stay text, and keys are text."""
    return json.loads(json.dumps(yaml.load(path.read_text(), Loader=yaml.BaseLoader)))


def test_the_schema_is_the_generated_one() -> None:
    written = json.loads((ROOT / "config" / "topology.schema.json").read_text())
    assert written == topology_schema()
    jsonschema.Draft202012Validator.check_schema(written)


def test_the_schema_accepts_the_example() -> None:
    validator = jsonschema.Draft202012Validator(topology_schema())
    example = as_editors_read(ROOT / "config" / "topology.yaml")
    example["version"] = int(example["version"])
    assert [error.message for error in validator.iter_errors(example)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"epoch": 0},
        {"fleet": "The Shop"},
        {"keyspace": {}},
        {"shards": {"S0": {"primary": {}}}},
        {"shards": {"s0": {"primry": {}}}},
        {"shards": {"s0": {"primary": {"hots": "a"}}}},
        {"shards": {"s0": {"primary": {"sslmode": "verify"}}}},
        {"shards": {"s0": {"primary": "mysql://a"}}},
        {"keyspaces": {"k": {"key": "integer"}}},
        {"keyspaces": {"k": {"key": "bigint", "hash": {"buckets": 4, "owners": {"s0": "all"}}}}},
        {"defaults": {"timeout": "soon"}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(change: dict[str, Any]) -> None:
    good = {"version": 1, "fleet": "shop", "epoch": 1, "shards": {"s0": {"primary": {"host": "127.0.0.1"}}}}
    validator = jsonschema.Draft202012Validator(topology_schema())
    assert validator.is_valid(good)
    assert parse_topology(json.dumps(good))
    assert not validator.is_valid(good | change)
    with pytest.raises(ConfigError):
        parse_topology(json.dumps(good | change))
