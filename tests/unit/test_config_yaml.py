"""Reading YAML: what unquoted text means, what is refused, and that no file takes long or much."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress

import pytest
import yaml

from shardpool.config import parse_topology
from shardpool.config._problems import MAX_PROBLEMS, Problems
from shardpool.config._scalars import AmbiguousScalar, resolve
from shardpool.config._yaml import MAX_BYTES, MAX_NODES, Unreadable, read_yaml
from shardpool.errors import ConfigError
from tests.timing import in_time


def read(text: str) -> object:
    problems = Problems("test.yaml")
    node = read_yaml(text, problems)
    if problems:
        raise problems.error()
    return node.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("1.50", 1.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0-1023", "0-1023"),
        ("5s", "5s"),
        ("2025-01-01", "2025-01-01"),
        ("12:00:00+00", "12:00:00+00"),
        ("norway", "norway"),
        ("127.0.0.1", "127.0.0.1"),
        ("1_a", "1_a"),
    ],
)
def test_an_unquoted_scalar_is_what_every_reader_takes_it_for(text: str, value: object) -> None:
    found = resolve(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        *("no", "NO", "Yes", "on", "off", "y", "N", "010", "-010", "08", "0o17", "0x1F", "0b101", "1_000", "1_000.5"),
        *("1:30", "190:20:30", "1:30.5", ".5", "5.", "1e3", "1.5E-3", ".inf", "-.INF", ".nan", "00.5", "<<", "="),
    ],
)
def test_text_that_readers_disagree_on_has_to_be_quoted(text: str) -> None:
    with pytest.raises(AmbiguousScalar):
        resolve(text)
    assert read(f"a: '{text}'\nb: \"{text}\"") == {"a": text, "b": text}


def test_plain_yaml_is_read_like_pyyaml_reads_it() -> None:
    text = """
    a: {b: [1, two, "three"], c: {d: null}}
    e:
      - f: 'it''s'
        g: "\\u00e4\\n"
      - |
        text
        block
    h: &shared {x: 1}
    i: [*shared, *shared]
    7: seven
    """
    assert read(text) == yaml.safe_load(text)


def test_nodes_know_line_column_and_path() -> None:
    problems = Problems("test.yaml")
    root = read_yaml("a:\n  - b: {c.d: 1}\n", problems)
    items = root.at("a")
    assert items is not None
    node = items.items[0].at("b", "c.d")
    assert node is not None
    assert (node.line, node.column, node.key_line, node.key_column) == (2, 14, 2, 9)
    assert node.path == 'a[0].b."c.d"'


def test_an_alias_has_the_path_of_its_use_and_the_place_of_its_text() -> None:
    root = read_yaml("a: &x {b: 1}\nc: *x\n", Problems("test.yaml"))
    node = root.at("c", "b")
    assert node is not None
    assert (node.path, node.line, node.column) == ("c.b", 1, 11)


def test_a_byte_order_mark_and_an_explicit_document_are_fine() -> None:
    assert read("%YAML 1.1\n---\na: 1\n...\n") == {"a": 1}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, f"more than {MAX_NODES} values"),
        ("a: " + "[" * 1_000_000, "deeper than 32"),
        ("{a: " * 500_000, "deeper than 32"),
        ("- " * 1_000_000, "deeper than 32"),
        ("? " * 1_000_000, "a list or mapping as a key"),
        ("[" + "a," * (MAX_NODES + 1) + "]", f"more than {MAX_NODES} values"),
        ("a: &a {b: *a}", "alias"),
        ("#" * (MAX_BYTES + 1), "larger than 4 MiB"),
        ("ü" * (MAX_BYTES // 2 + 1), "larger than 4 MiB"),
        ("a: \0", "control character U\\+0000"),
        ("a: \x1b[31m", "control character U\\+001B"),
        ('"' + "x" * 1_000_000, "not readable as YAML"),
        ("&a " * 500_000, "not readable as YAML"),
    ],
    ids=lambda value: value[:12],
)
def test_a_hostile_file_is_refused_quickly(text: str, message: str) -> None:
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=message):
        parse_topology(text)
    took, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Tracing memory makes it some five times slower than it is.
    in_time(took, 6)
    assert peak < 300 * 1024 * 1024


@pytest.mark.parametrize("scalar", ["1", "1e", "1_", "1:", "0x", "-1.", ".1", "0_0"])
def test_a_long_scalar_is_read_in_linear_time(scalar: str) -> None:
    started = time.perf_counter()
    for end in ("", "z", "-"):
        with suppress(AmbiguousScalar):
            resolve(scalar * 200_000 + end)
        with suppress(AmbiguousScalar):
            resolve(scalar[0] * 200_000 + scalar[1:] + end)
    in_time(time.perf_counter() - started, 0.5)


def test_depth_is_counted_through_aliases() -> None:
    deep = "x: &x " + "[" * 20 + "]" * 20 + "\ny: " + "[" * 20 + "*x" + "]" * 20
    with pytest.raises(Unreadable):
        read_yaml(deep, Problems("test.yaml"))


def test_a_file_of_nonsense_is_told_a_bounded_number_of_problems() -> None:
    text = "version: 1\n" + "".join(f"field_{number}: x\n" for number in range(20_000))
    started = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        parse_topology(text)
    assert len(caught.value.problems) == MAX_PROBLEMS
    in_time(time.perf_counter() - started, 10)


def test_a_large_topology_loads_quickly() -> None:
    shards = "".join(f"  s{n}: {{primary: {{host: h{n}}}, replicas: [{{host: r{n}}}]}}\n" for n in range(64))
    owners = "".join(f"        s{n}: {list(range(n, 4096, 64))}\n" for n in range(64))
    text = (
        f"version: 1\nfleet: shop\nepoch: 1\nshards:\n{shards}keyspaces:\n  k:\n    key: bigint\n"
        f"    hash:\n      buckets: 4096\n      owners:\n{owners}"
    )
    times = []
    for _ in range(5):
        # Processor time: other tests may run at the same time.
        started = time.process_time()
        topology = parse_topology(text)
        times.append(time.process_time() - started)
    assert len(topology.keyspace("k").owners) == 4096
    in_time(min(times), 0.15)
