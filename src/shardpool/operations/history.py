"""Who changed the topology, when and what: the record that every shard keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ..errors import EditRefused, ScatterError, summary
from ..topology import Topology
from .connections import Conn, connected, one, rows

_QUERY = """
    select epoch, begun_at, finished_at, author, login, change, outcome, digest
    from shardpool.history order by epoch desc limit %s
"""


@dataclass(frozen=True, slots=True)
class Change:
    """One edit of the topology; `shards` are those that know of it, `unfinished` those that have not finished it."""

    epoch: int
    begun_at: datetime
    finished_at: datetime | None
    author: str
    login: str
    change: str
    outcome: str
    digest: str
    shards: tuple[str, ...]
    unfinished: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def edit_history(
    topology: Topology, limit: int = 20, timeout: float = 30.0
) -> tuple[list[Change], dict[str, str]]:
    """The last changes, the newest first, as all shards together tell them; and why which shards told nothing.

    Raises `ScatterError` when there is no shard that tells.
    """

    async def changes_of(name: str, conn: Conn) -> list[tuple[Any, ...]]:
        if not await one(conn, "select pg_catalog.to_regclass('shardpool.history') is not null"):
            return []
        return await rows(conn, _QUERY, (limit,))

    if topology.control == "none":
        raise EditRefused("control: none: the shards carry no shardpool schema, and keep no history")
    async with connected(dict.fromkeys(topology.shards, topology), timeout, some=True) as conns:
        by_shard, failed = await conns.answers(conns.names, changes_of)
        failures: dict[str, BaseException] = {**conns.missing, **failed}
    if not by_shard:
        raise ScatterError("no shard tells the history", failures=failures)
    rows_by_edit: dict[tuple[int, str], dict[str, tuple[Any, ...]]] = {}
    for shard, changes in by_shard.items():
        for change in changes:
            rows_by_edit.setdefault((change[0], change[7]), {})[shard] = change
    merged = [_merged(by_shard_) for by_shard_ in rows_by_edit.values()]
    last = sorted(merged, key=lambda change: (-change.epoch, change.begun_at))[:limit]
    return last, {shard: summary(error) for shard, error in failures.items()}


def _merged(by_shard: dict[str, tuple[Any, ...]]) -> Change:
    first = min(by_shard.values(), key=lambda change: change[1])
    unfinished = tuple(shard for shard, change in by_shard.items() if change[6] == "begun")
    outcome = "begun" if unfinished else first[6]
    ends = [change[2] for change in by_shard.values() if change[2] is not None]
    finished = None if unfinished or not ends else max(ends)
    return Change(
        first[0], first[1], finished, first[3], first[4], first[5], outcome, first[7], tuple(by_shard), unfinished
    )
