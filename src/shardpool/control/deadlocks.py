"""Deadlocks over several shards, which no server sees: what is declared and asked, and who waits in a circle. Pure.

A transaction that has waited for long declares its sessions on its shards: by advisory locks of a session of its
router's, one for each, whose keys hold the transaction's number and the session's process. So whoever looks learns of
all that wait on a shard, by whatever process they were begun, and which of them hold up which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ..errors import DistributedDeadlock, shown
from .own_sql import qualified

APPLICATION = "shardpool deadlocks"
"""The application_name of sessions that declare."""

_PID_BITS = 22
_CHANCE_BITS = 10
_TIME_BITS = 30
_SHOWN = 200

DECLARE_QUERY = "select pg_catalog.pg_try_advisory_lock_shared(key) from pg_catalog.unnest(%s::pg_catalog.int8[]) key"
WITHDRAW_QUERY = "select pg_catalog.pg_advisory_unlock_shared(key) from pg_catalog.unnest(%s::pg_catalog.int8[]) key"

WAITS_QUERY = qualified(f"""
    select found.key, pg_catalog.pg_blocking_pids(a.pid), pg_catalog.left(a.query, {_SHOWN}), a.query_start
    from (
      select distinct (l.classid::pg_catalog.int8 * 4294967296) + l.objid::pg_catalog.int8 as key
      from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity d on d.pid = l.pid
      where l.locktype = 'advisory' and l.objsubid = 1 and l.granted and d.application_name = '{APPLICATION}'
        and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
    ) found
    join pg_catalog.pg_stat_activity a on a.pid = ((found.key & {2**_PID_BITS - 1})::pg_catalog.int4)
""")
"""Rows (key, the processes that the session waits for, its statement, when that began) of all that are declared."""

CANCEL_QUERY = qualified("""
    select pg_catalog.pg_cancel_backend(a.pid) from pg_catalog.pg_stat_activity a
    where a.pid = %s and a.query_start = %s and pg_catalog.cardinality(pg_catalog.pg_blocking_pids(a.pid)) > 0
""")
"""Ends what a session has run since then, if that still waits for a lock: by now it may be another transaction's."""


def new_number(seconds: float, chance: float) -> int:
    """The number of a transaction that begins at that Unix time: of two the later one has the larger, mostly."""
    begun = int(seconds * 10) & (1 << _TIME_BITS) - 1
    return begun << _CHANCE_BITS | int(chance * (1 << _CHANCE_BITS))


def key(number: int, pid: int) -> int:
    """What declares a session of a transaction."""
    return number << _PID_BITS | pid


@dataclass(frozen=True, slots=True)
class Declared:
    """A session of a transaction that waits somewhere: the processes that it waits for itself, and its statement."""

    shard: str
    number: int
    pid: int
    waits_for: tuple[int, ...]
    statement: str
    since: datetime | None

    @classmethod
    def of(
        cls, shard: str, key: int, waits_for: Sequence[int], statement: str | None, since: datetime | None
    ) -> Declared:
        """One of the rows of `WAITS_QUERY`."""
        pid = key & (1 << _PID_BITS) - 1
        return cls(shard, key >> _PID_BITS, pid, tuple(waits_for), shown(statement or "", _SHOWN), since)


def circle(number: int, declared: Sequence[Declared]) -> list[Declared]:
    """Who waits for whom, from that transaction back to itself; empty when it is in no circle."""
    by_process = {(each.shard, each.pid): each.number for each in declared}
    waits: dict[int, list[tuple[Declared, int]]] = {}
    for each in declared:
        for pid in each.waits_for:
            holder = by_process.get((each.shard, pid))
            if holder is not None and holder != each.number:
                waits.setdefault(each.number, []).append((each, holder))
    # Breadth first: the shortest circle.
    seen = {number}
    paths: list[tuple[int, list[Declared]]] = [(number, [])]
    for at, path in paths:
        for each, holder in waits.get(at, ()):
            if holder == number:
                return [*path, each]
            if holder not in seen:
                seen.add(holder)
                paths.append((holder, [*path, each]))
    return []


def victim(circle: Sequence[Declared]) -> int:
    """The number of the transaction of a circle that is to give way: all who look choose the same."""
    return max(each.number for each in circle)


def error_of(circle: Sequence[Declared]) -> DistributedDeadlock:
    """The error of the transaction of whose wait the circle tells first."""
    first, *others = circle
    waits = " and ".join(f"that waits on shard {each.shard}" for each in others)
    statements = [f"On shard {first.shard} this one waits with: {first.statement}"]
    statements += [f"On shard {each.shard} another one waits with: {each.statement}" for each in others]
    return DistributedDeadlock(
        f"deadlock over shards: the transaction waits on shard {first.shard} for one {waits} for it",
        detail="\n".join(statements),
        hint="Nothing of it was applied: begin it again, as router.run() does; or touch rows in one order everywhere.",
    )
