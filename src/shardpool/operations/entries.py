"""The entries of a lookup and the rows that they lead to, compared and mended while both are used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable
from psycopg.rows import tuple_row

from .._runtime.tasks import async_run_all
from ..control.buckets import bucket_of, owned_multirange
from ..control.lookups import Entry, key_of, owner_of, ready_statement
from ..errors import EditRefused
from ..quoting import quote_ident, quote_table
from ..topology import Lookup, Sharded, Topology
from .connections import Conn, open_link, rows
from .lookups import check_shard, column_types, key_columns, named, state

Progress = Callable[[str, str, int], None]

_BATCH = 2000
# How often what differs is looked at again before it is told, and seconds between: a transaction over shards that is
# just being committed is seen on one of them first.
_LOOKS, _PAUSE = 5, 0.2
# Who holds locks on one shard waits no longer on another.
_LOCK_TIMEOUT = "set local lock_timeout = '1s'"
_TRIES = 20
_EXAMPLES = 10


@dataclass
class LookupReport:
    """What a comparison of a lookup's entries with the rows found, or mended.

    `missing` rows had no entry, and `orphaned` entries no row. `duplicates` are values that rows of several keys have,
    each with two of the keys; at most ten of these, and `duplicated` says how many there are.
    """

    name: str
    rows: int = 0
    entries: int = 0
    missing: int = 0
    orphaned: int = 0
    duplicated: int = 0
    mended: bool = False
    ready: bool = False
    duplicates: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether each row has its entry now, and no entry lacks its row."""
        return not self.duplicated and (self.mended or not (self.missing or self.orphaned))

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**asdict(self), "ok": self.ok}


async def check_lookups(
    topology: Topology, names: Sequence[str] = (), *, progress: Progress | None = None
) -> list[LookupReport]:
    """Compare all entries of these lookups with the rows that they lead to. Changes nothing.

    Raises `EditRefused` where a lookup was not created, or rows are on their way to another shard.
    """
    return [await _Comparing(topology, lookup, progress).run(mend=False) for lookup in named(topology, names)]


async def repair_lookups(
    topology: Topology, names: Sequence[str] = (), *, orphans: bool = True, progress: Progress | None = None
) -> list[LookupReport]:
    """Add the entries that rows lack, take away those that have no row, and have complete ones used.

    Writers go on meanwhile. `orphans` False only adds. Raises as `check_lookups` does.
    """
    lookups = named(topology, names)
    return [await _Comparing(topology, lookup, progress).run(mend=True, orphans=orphans) for lookup in lookups]


class _Comparing:
    """One lookup: its rows and its entries, each shard's by a cursor, and what is asked of the others by batches."""

    def __init__(self, topology: Topology, lookup: Lookup, progress: Progress | None) -> None:
        self._topology = topology
        self._lookup = lookup
        self._keys = key_columns(topology, lookup)
        self._progress = progress
        self._report = LookupReport(lookup.name)
        self._conns: Mapping[str, Conn] = {}
        self._locks: Mapping[str, asyncio.Lock] = {}
        self._types: list[str] = []
        placement = topology.placements[lookup.table]
        assert isinstance(placement, Sharded)
        self._space, self._values = topology.keyspaces[placement.keyspace], topology.keyspaces[lookup.keyspace]

    async def run(self, *, mend: bool, orphans: bool = True) -> LookupReport:
        moves = [*self._space.moves, *self._values.moves]
        if moves:
            raise EditRefused(
                f"entries of {self._lookup.name} cannot be compared while rows move: {moves[0]}",
                hint="Wait until it is finished: shardpool move status",
            )
        async with AsyncExitStack() as stack:
            names = list(self._topology.shards)
            opened = [await stack.enter_async_context(open_link(self._topology, name)) for name in names]
            self._conns = dict(zip(names, opened, strict=True))
            self._locks = {name: asyncio.Lock() for name in names}
            self._report.mended = mend
            await self._on_all(self._prepare)
            if orphans:
                await self._on_all(lambda name: self._entries_of(name, mend=mend))
            await self._on_all(lambda name: self._rows_of(name, mend=mend))
            states = await self._on_all(self._state)
            if mend and not self._report.duplicated:
                for name, is_ready in states.items():
                    if not is_ready:
                        await self._conns[name].execute(ready_statement(self._lookup))
                states = dict.fromkeys(states, True)
            self._report.ready = all(states.values())
        return self._report

    async def _on_all(self, step: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
        names = list(self._conns)
        outcomes = await async_run_all([partial(step, name) for name in names])
        failure = next((error for _, error in outcomes if error is not None), None)
        if failure is not None:
            raise failure
        return {name: value for name, (value, _) in zip(names, outcomes, strict=True)}

    async def _prepare(self, name: str) -> None:
        conn = self._conns[name]
        await check_shard(self._topology, name, conn)
        await conn.execute("set timezone = 'UTC'")
        found = await state(self._lookup, conn)
        if not (found.has_entries and found.has_triggers):
            raise EditRefused(
                f"lookup {self._lookup.name} on shard {name}: {found}",
                hint=f"Run: shardpool lookup create {self._lookup.name}",
            )
        _, types = await column_types(self._topology, self._lookup, name, conn)
        self._types = [type_.split("(")[0].split(" collate ")[0] for type_ in types]

    async def _state(self, name: str) -> bool:
        return (await state(self._lookup, self._conns[name])).is_ready

    # -- rows without an entry ------------------------------------------------------------------------------------

    async def _rows_of(self, shard: str, *, mend: bool) -> None:
        async for batch in self._batches(shard, self._lookup.table, self._owned(shard)):
            self._report.rows += len(batch)
            lacking = await self._lacking(batch)
            if lacking and mend:
                await self._add(shard, lacking)
            for _ in range(0 if mend else _LOOKS):
                if not lacking:
                    break
                await asyncio.sleep(_PAUSE)
                lacking = await self._lacking(await self._still(shard, self._lookup.table, lacking))
            if not mend:
                for entry, other in lacking.items():
                    self._tell(entry, other)

    async def _lacking(self, batch: Iterable[Entry]) -> dict[Entry, Entry | None]:
        """The rows whose value has no entry, or that of another key."""
        found: dict[str, Entry] = {}
        for owner, group in self._by_owner_of_value(batch).items():
            values = [entry[0] for entry in group]
            query = (
                f"select {self._texts('e.')} from pg_catalog.unnest(%s::text[]) v (a) "
                f"join {quote_table(self._lookup.entries)} e on e.{quote_ident(self._lookup.column)} "
                f"= v.a::{self._types[0]}"
            )
            found.update({row[0]: tuple(row) for row in await self._asked(owner, query, [values])})
        return {entry: found.get(entry[0]) for entry in batch if found.get(entry[0]) != entry}

    async def _add(self, shard: str, lacking: Mapping[Entry, Entry | None]) -> None:
        """Add entries of rows that stay as they are meanwhile."""
        others: dict[Entry, Entry | None] = {}
        added = 0

        async def work(conn: Conn) -> None:
            nonlocal added
            others.clear()
            held = await rows(conn, f"{self._chosen(self._lookup.table)} for share of t", self._columns(lacking))
            added = 0
            for owner, group in self._by_owner_of_value(tuple(row) for row in held).items():
                names = ", ".join(map(quote_ident, (self._lookup.column, *self._keys)))
                query = (
                    f"insert into {quote_table(self._lookup.entries)} ({names}) select {self._cast('v')} "
                    f"from unnest({self._arrays()}) v ({self._names()}) on conflict do nothing "
                    f"returning {self._texts('')}"
                )
                async with open_link(self._topology, owner) as own, own.transaction():
                    await own.execute(_LOCK_TIMEOUT)
                    await own.execute("set local timezone = 'UTC'")
                    added += len(await rows(own, query, self._columns(group)))
                others.update(await self._lacking(group))

        await self._patiently(shard, work)
        self._report.missing += added
        for entry, other in others.items():
            if other is not None:
                self._tell(entry, other)

    def _tell(self, entry: Entry, other: Entry | None) -> None:
        if other is None:
            self._report.missing += 1
            return
        self._report.duplicated += 1
        if len(self._report.duplicates) < _EXAMPLES:
            self._report.duplicates.append((entry[0], entry[1:], other[1:]))

    # -- entries without a row ------------------------------------------------------------------------------------

    async def _entries_of(self, shard: str, *, mend: bool) -> None:
        bucket = bucket_of(self._values, (self._lookup.column,), "t.")
        owned = f"coalesce({bucket} operator(pg_catalog.<@) {owned_multirange(self._values, shard)}, false)"
        async for batch in self._batches(shard, self._lookup.entries, owned):
            self._report.entries += len(batch)
            orphaned = await self._orphaned(batch)
            for _ in range(0 if mend else _LOOKS):
                if not orphaned:
                    break
                await asyncio.sleep(_PAUSE)
                orphaned = await self._orphaned(await self._still(shard, self._lookup.entries, orphaned))
            if not mend:
                self._report.orphaned += len(orphaned)
            for owner, group in self._by_owner_of_key(orphaned if mend else ()).items():
                taken = await self._take_away(shard, owner, group)
                self._report.orphaned += taken

    async def _orphaned(self, batch: Iterable[Entry]) -> list[Entry]:
        found: list[Entry] = []
        for owner, group in self._by_owner_of_key(batch).items():
            there = set(await self._still(owner, self._lookup.table, group))
            found += [entry for entry in group if entry not in there]
        return found

    async def _take_away(self, shard: str, owner: str, group: Sequence[Entry]) -> int:
        """Take entries away whose rows are not there, when all have ended who were writing the table."""
        count = 0

        async def work(conn: Conn) -> None:
            nonlocal count
            await conn.execute(f"lock table {quote_table(self._lookup.table)} in share mode")
            there = {tuple(row) for row in await rows(conn, self._chosen(self._lookup.table), self._columns(group))}
            gone = [entry for entry in group if entry not in there]
            async with open_link(self._topology, shard) as own, own.transaction():
                await own.execute(_LOCK_TIMEOUT)
                table, columns = quote_table(self._lookup.entries), self._columns(gone)
                query = f"delete from {table} t using unnest({self._arrays()}) v ({self._names()}) where "
                count = (await own.execute(query + self._same(), columns)).rowcount

        await self._patiently(owner, work)
        return count

    # -- SQL -------------------------------------------------------------------------------------------------------

    async def _batches(self, shard: str, table: str, condition: str) -> AsyncIterator[list[Entry]]:
        column = quote_ident(self._lookup.column)
        async with open_link(self._topology, shard) as conn, conn.transaction():
            await conn.execute("set local timezone = 'UTC'")
            async with conn.cursor("shardpool_entries", row_factory=tuple_row) as cursor:
                await cursor.execute(
                    f"select {self._texts('t.')} from {quote_table(table)} t "
                    f"where t.{column} is not null and {condition}"
                )
                while batch := await cursor.fetchmany(_BATCH):
                    yield [tuple(row) for row in batch]
                    if self._progress is not None:
                        self._progress(self._lookup.name, shard, len(batch))

    async def _still(self, shard: str, table: str, entries: Iterable[Entry]) -> list[Entry]:
        """Those that are in a table of a shard."""
        found = await self._asked(shard, self._chosen(table), self._columns(entries))
        return [tuple(row) for row in found]

    async def _asked(self, shard: str, query: str, params: Any) -> list[tuple[Any, ...]]:
        async with self._locks[shard]:
            return await rows(self._conns[shard], query, params)

    async def _patiently(self, shard: str, work: Callable[[Conn], Awaitable[None]]) -> None:
        """Work in a transaction that holds locks on a shard, and gives way to others that wait for it elsewhere."""
        for attempt in range(_TRIES):
            try:
                async with open_link(self._topology, shard) as conn, conn.transaction():
                    await conn.execute(_LOCK_TIMEOUT)
                    await conn.execute("set local timezone = 'UTC'")
                    await work(conn)
                return
            except (LockNotAvailable, DeadlockDetected):
                if attempt == _TRIES - 1:
                    raise
            except psycopg.errors.ReadOnlySqlTransaction as error:
                raise EditRefused(f"shard {shard} takes no writes") from error
            await asyncio.sleep(_PAUSE)

    def _owned(self, shard: str) -> str:
        bucket = bucket_of(self._space, self._keys, "t.")
        return f"coalesce({bucket} operator(pg_catalog.<@) {owned_multirange(self._space, shard)}, false)"

    def _chosen(self, table: str) -> str:
        return (
            f"select {self._texts('t.')} from unnest({self._arrays()}) v ({self._names()}) "
            f"join {quote_table(table)} t on {self._same()}"
        )

    def _columns(self, entries: Iterable[Entry]) -> list[list[str]]:
        """Entries as a parameter for each column."""
        found = list(entries)
        return [[entry[number] for entry in found] for number in range(1 + len(self._keys))]

    def _texts(self, row: str) -> str:
        return ", ".join(f"{row}{quote_ident(name)}::text" for name in (self._lookup.column, *self._keys))

    def _arrays(self) -> str:
        return ", ".join(["%s::text[]"] * (1 + len(self._keys)))

    def _names(self) -> str:
        return ", ".join(f"c{number}" for number in range(1 + len(self._keys)))

    def _cast(self, row: str) -> str:
        return ", ".join(f"{row}.c{number}::{type_}" for number, type_ in enumerate(self._types))

    def _same(self) -> str:
        names = (self._lookup.column, *self._keys)
        return " and ".join(
            f"t.{quote_ident(name)} operator(pg_catalog.=) v.c{number}::{type_}"
            for number, (name, type_) in enumerate(zip(names, self._types, strict=True))
        )

    # -- owners ----------------------------------------------------------------------------------------------------

    def _by_owner_of_value(self, entries: Iterable[Entry]) -> dict[str, list[Entry]]:
        by_owner: dict[str, list[Entry]] = {}
        for entry in entries:
            by_owner.setdefault(owner_of(self._topology, self._lookup, entry[0]), []).append(entry)
        return by_owner

    def _by_owner_of_key(self, entries: Iterable[Entry]) -> dict[str, list[Entry]]:
        by_owner: dict[str, list[Entry]] = {}
        types = self._space.key_types
        for entry in entries:
            parts = tuple(key_of(part, type_) for part, type_ in zip(entry[1:], types, strict=True))
            bucket = self._space.partitioning.bucket(parts[0] if len(parts) == 1 else parts)
            by_owner.setdefault(self._space.shard_by_bucket[bucket], []).append(entry)
        return by_owner
