"""Moves that run at the same time: none undoes what another one has drawn on a shard that both use."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from tests.timing import SLOW, not_after

from .fleet import Moves, connect, keys_of
from .test_kinds import CALM

pytestmark = pytest.mark.servers

KEYSPACES = """\
keyspaces:
  tenants: {key: bigint, hash: {buckets: 64, owners: {s0: 0-31, s1: 32-63}}, tables: {notes: tenant_id}}
"""
SCHEMA = "create table notes (tenant_id bigint primary key, note text)"
KEYS = 200


@pytest.fixture
def moves(make_moves: Callable[[str, str], Moves]) -> Moves:
    """As many rows on both owners; those of s1 are much larger."""
    found = make_moves(KEYSPACES, SCHEMA)
    for shard, buckets, size in (("s0", range(32), 10), ("s1", range(32, 64), 2000)):
        with connect(found.topology, shard) as conn, conn.cursor() as cursor:
            text = f"string_agg(chr(40 + (random() * 80)::int), '') from generate_series(1, {size})"
            cursor.executemany(
                f"insert into notes select %s, {text}",
                [(key,) for key in keys_of(found.topology, "tenants", buckets, KEYS)],
            )
    return found


def test_what_a_move_draws_lets_those_in_that_were_begun_later(moves: Moves) -> None:
    """The first one is held up in its copy: it was begun by a topology in which the second one is not yet."""
    (key,) = keys_of(moves.topology, "tenants", range(32, 40), 1)
    with _begun(moves, "--buckets", "0-7", "--to", "s2", "--throttle", "100b/s") as first:
        _until(first, "copying")
        moves.query("s0", "update shardpool.moves set wanted = 'pause' where move = 1 returning 1")
        _until(first, "paused")
        with _begun(moves, "--buckets", "32-39", "--to", "s2", "--window", _not_now()) as second:
            _in_step(moves, 2, "copied")
            moves.query("s0", "update shardpool.moves set wanted = null where move = 1 returning 1")
            _until(first, "; the copy on the source follows")
            _until(second, "waiting: for")
            moves.query("s1", "update notes set note = 'meanwhile' where tenant_id = %s returning 1", (key,))
    moves("move", "resume", "1", *CALM)
    moves("move", "resume", "2", *CALM)
    assert moves.query("s2", "select note from notes where tenant_id = %s", (key,)) == [("meanwhile",)]
    for number in "12":
        moves("move", "finish", number, *CALM)
    _all_there_and_nothing_else(moves)


def test_an_older_copy_of_the_file_draws_nothing(moves: Moves, tmp_path: Path) -> None:
    with _begun(moves, "--buckets", "0-7", "--to", "s2", "--throttle", "100b/s") as first:
        _until(first, "copying")
    older = tmp_path / "older.yaml"
    older.write_text(moves.path.read_text())
    moves("topology", "set", "shards.s3.pool.max_size", "20")
    moves("move", "resume", "1", "--topology", str(older), *CALM, code=1)
    assert "shardpool topology pull, and then: shardpool move resume 1" in moves.stderr
    moves("move", "resume", "1", "--finish", *CALM)
    _all_there_and_nothing_else(moves)


def test_a_new_shard_gets_its_part_of_the_bytes_from_two_at_once(moves: Moves) -> None:
    planned = moves.json("rebalance", "tenants", "--by", "bytes", "--dry-run", *CALM)
    rows = moves.json("rebalance", "tenants", "--by", "rows", "--dry-run", *CALM)
    # There are four shards, and s0 has a hundredth of the bytes: only s1 has to give, and to s0 as well.
    assert {one["from"] for one in planned["planned"]} == {"s1"} and planned["moves"] == []
    assert {one["from"] for one in rows["planned"]} == {"s0", "s1"} and "s0" not in {
        one["to"] for one in rows["planned"]
    }
    then = [one["then"] for one in planned["shards"]]
    assert sum(then) - 4 <= sum(one["now"] for one in planned["shards"]) <= sum(then) + 4
    assert max(then) < 1.2 * sum(then) / 4
    with moves.begin("rebalance", "tenants", "--by", "rows", "--parallel", "2", *CALM) as process:
        _, told = process.communicate()
    assert process.returncode == 0, told
    lines = told.splitlines()
    begun = [at for at, line in enumerate(lines) if "new topology: buckets" in line]
    assert len(begun) > 2 and begun[1] < min(at for at, line in enumerate(lines) if ": finished" in line)
    assert max(len(_keys(moves, shard)) for shard in moves.topology.shards) < KEYS * 0.7
    _all_there_and_nothing_else(moves)


@contextmanager
def _begun(moves: Moves, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with moves.begin("move", "tenants", *arguments, *CALM) as process:
        try:
            yield process
        finally:
            process.kill()


def _until(process: Any, text: str) -> None:
    """Until the command says this."""
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError(f"it ended without a word of {text!r}:\n{''.join(said)}")


def _in_step(moves: Moves, number: int, step: str) -> None:
    """Until a move has come to a step, as its shards have it."""
    end = monotonic() + 4 * SLOW
    while not moves.query("s2", "select from shardpool.moves where (move, step) = (%s, %s)", (number, step)):
        not_after(end)
        sleep(0.1)


def _not_now() -> str:
    """A time of day that is hours away."""
    at = datetime.now() + timedelta(hours=5)
    return f"{at:%H:%M}-{at + timedelta(minutes=1):%H:%M}"


def _keys(moves: Moves, shard: str) -> list[int]:
    """The keys of the rows that a shard should have."""
    space = moves.topology.keyspaces["tenants"]
    both = [
        *keys_of(moves.topology, "tenants", range(32), KEYS),
        *keys_of(moves.topology, "tenants", range(32, 64), KEYS),
    ]
    return sorted(key for key in both if space.shard_by_bucket[space.partitioning.bucket(key)] == shard)


def _all_there_and_nothing_else(moves: Moves) -> None:
    for shard in moves.topology.shards:
        there = [key for (key,) in moves.query(shard, "select tenant_id from notes order by 1")]
        assert there == _keys(moves, shard), shard
        assert moves.left(shard) == {}, shard
