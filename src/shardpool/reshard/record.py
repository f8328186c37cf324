"""What the two shards of a move know of it: how far it is, for who takes it up again and for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..operations.connections import Conn, connected, one, rows
from ..topology import RunningMove, Topology

STEPS = (
    "begun",
    "copying",
    "copied",
    "following",
    "guarded",
    "compared",
    "handed over",
    "moved",
    "watched",
    "finishing",
    "finished",
    "aborting",
    "aborted",
)
"""How far a move is: the last of these that it has reached."""

OVER = frozenset({"finished", "aborted"})

_QUERY = """
    select move, keyspace, what, source, target, step, begun_at, finished_at, copied, total, note, wanted, told
    from shardpool.moves
"""
_PUT = """
    insert into shardpool.moves (move, keyspace, what, source, target, step, told)
    values (%(move)s, %(keyspace)s, %(what)s, %(source)s, %(target)s, 'begun', %(told)s)
    on conflict (move) do update set keyspace = excluded.keyspace, what = excluded.what, source = excluded.source,
      target = excluded.target, told = moves.told || excluded.told
"""
_PUT_FIRST = f"{_PUT[: _PUT.index('on conflict')]} on conflict do nothing"
_STEP = """
    update shardpool.moves set step = %(step)s, note = coalesce(%(note)s, note), told = told || %(told)s::jsonb,
      finished_at = case when %(over)s then pg_catalog.clock_timestamp() end
    where move = %(move)s
"""


@dataclass(frozen=True)
class Record:
    """A move as its shards know it. `told` holds what steps have found: pauses, times, addresses between servers."""

    number: int
    keyspace: str | None
    what: Mapping[str, Any]
    source: str
    target: str
    step: str
    begun_at: datetime
    finished_at: datetime | None
    copied: int
    total: int
    note: str | None
    wanted: str | None
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.step in OVER

    @property
    def move(self) -> RunningMove:
        """The move, as far as a shard knows it: buckets by the numbers that they had then."""
        ranges = tuple((int(first), int(last)) for first, last in self.what.get("buckets", []))
        table = self.what.get("table")
        return RunningMove(self.number, self.source, self.target, "moved", self.keyspace, ranges, table)


async def records(conn: Conn) -> list[Record]:
    """All moves that a shard knows of."""
    if not await one(conn, "select pg_catalog.to_regclass('shardpool.moves') is not null"):
        return []
    return [Record(*row) for row in await rows(conn, f"{_QUERY} order by move")]


async def read(conn: Conn, number: int) -> Record | None:
    """A move as the shard knows it; None when it has never heard of it."""
    records_there = await rows(conn, f"{_QUERY} where move = %s", (number,))
    return Record(*records_there[0]) if records_there else None


async def put(conn: Conn, move: RunningMove, notes: Mapping[str, Any], *, first: bool = False) -> None:
    """Let a shard know of a move, or of the direction that it has by now; with `first` only if it knows of none."""
    what = {"table": move.table} if move.table is not None else {"buckets": [list(entry) for entry in move.buckets]}
    await conn.execute(
        _PUT_FIRST if first else _PUT,
        {
            "move": move.number,
            "keyspace": move.keyspace,
            "what": json.dumps(what),
            "source": move.source,
            "target": move.target,
            "told": json.dumps(notes),
        },
    )


async def set_step(conn: Conn, number: int, step: str, note: str | None = None, **notes: Any) -> None:
    """Write down that a move has come to a step, and what it has found."""
    assert step in STEPS, step
    arguments = {"move": number, "step": step, "note": note, "told": json.dumps(notes), "over": step in OVER}
    await conn.execute(_STEP, arguments)


async def find(topology: Topology, number: int, timeout: float = 30.0) -> Record | None:
    """A move as the shards know it that can be reached, whether or not it runs."""
    async with connected(dict.fromkeys(topology.shards, topology), timeout, some=True) as conns:

        async def one_of(name: str, conn: Conn) -> Record | None:
            return next((record for record in await records(conn) if record.number == number), None)

        record_by_shard, _ = await conns.answers(conns.names, one_of)
    return next((record for record in record_by_shard.values() if record is not None), None)


async def next_number(topology: Topology, shards: Iterable[str], timeout: float) -> int:
    """A number that no move of these shards has had; one that was never begun in the file is given again."""

    async def highest(name: str, conn: Conn) -> int:
        records_there = await records(conn)
        used = [one.number for one in records_there if one.step != "begun" or one.number in topology.moves]
        return max(used, default=0)

    async with connected(dict.fromkeys(shards, topology), timeout) as conns:
        highest_by_shard = await conns.on(conns.names, highest, "the look at earlier moves")
    return max([0, *topology.moves, *highest_by_shard.values()]) + 1
