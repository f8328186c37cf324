"""What is opened because a topology is read, or names it: no file can hang the process or fill it."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest

from shardpool import ConfigError, UnknownKeyspace, UnknownShard, UnknownTable, load_topology, parse_topology
from shardpool.config import read_file
from shardpool.config._yaml import MAX_BYTES
from shardpool.errors import first_line
from shardpool.topology import Secret

TEXT = "version: 1\nfleet: shop\nepoch: 1\nshards: {s0: {primary: {host: 127.0.0.1}}}\n"


def test_a_topology_that_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="cannot be read: it is no regular file"):
            load_topology(path)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(TEXT)
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    assert load_topology(tmp_path / "link.yaml").fleet == "shop"


def test_no_more_of_a_file_is_read_than_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"x" * 11)
    assert read_file(file, 11) == b"x" * 11
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_file(file, 10)
    # A file with a hole: a gigabyte that takes no place.
    os.truncate(file, 1 << 30)
    with pytest.raises(ConfigError, match=f"larger than {MAX_BYTES:,} bytes"):
        load_topology(file)


def test_a_password_is_not_pickled_with_its_topology() -> None:
    topology = parse_topology(TEXT.replace("127.0.0.1", '127.0.0.1, password: "${P}"'), env={"P": "hunter2"})
    for value in (topology, topology.shards["s0"].primary, Secret("hunter2")):
        with pytest.raises(TypeError, match="a password is not pickled") as raised:
            pickle.dumps(value)
        assert "hunter2" not in str(raised.value)
    assert copy.deepcopy(topology) == topology
    assert pickle.loads(pickle.dumps(parse_topology(TEXT))) == parse_topology(TEXT)


def test_names_of_the_caller_stay_on_one_line_of_a_message() -> None:
    topology = parse_topology(TEXT)
    name = "s0\nDETAIL:  all is well\x1b[2J" + "x" * 8_000_000
    for error, call in (
        (UnknownShard, topology.shard),
        (UnknownKeyspace, topology.keyspace),
        (UnknownTable, lambda table: topology.keyspace(table=table)),
    ):
        with pytest.raises(error) as raised:
            call(name)
        assert "s0\\nDETAIL" in raised.value.args[0] and len(str(raised.value)) < 1000
        assert not {"\x1b", "\n"} & set(str(raised.value).split("\nHINT")[0])


def test_a_line_of_somebody_elses_error_is_cut_and_escaped() -> None:
    assert first_line(ValueError("\x1b[31mred\nmore")) == "\\x1b[31mred"
    assert len(first_line(ValueError("x" * 8_000_000))) < 1100
