# Generated from _async/copying.py by tools/unasync.py: edit that one, then run `make sync`.
"""`copy_into`: rows split by key into one COPY per shard, all at once, and an exact account when it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg._copy_base import format_row_binary, format_row_text  # the two that psycopg's own Copy calls for each row
from psycopg.rows import tuple_row

from .._concurrency import batches, run_all
from ..bucket_sql import quote_table
from ..copy_target import TARGET_QUERY, Target, check_key, stored_key, target
from ..copy_types import BYTES, check_moments, moments, range_check, sent_types, unfit
from ..errors import LoadError, MissingKey, ShardError, first_line, nearest
from ..keys import KeyType
from ..own_sql import qualified as own
from ..partitioning import make_batch_lookup
from ..query.copies import loaded
from ..query.plan import Copies
from ..query.timing import moments as moment_defaults
from ..topology import Reference, Sharded, Single, Topology, qualified
from . import copies_load, gather, planning
from .copy_stream import ShardFailed, Stream, copy_line
from .lease import is_lost
from .pools import give_all

if TYPE_CHECKING:
    from .router import Router

_BATCH_ROWS = 128
_BATCH_BYTES = 2**20
# Of so many rows the last one tells how wide they are.
_SAMPLED_ROWS = 32
_SIZED = frozenset((str, bytes, bytearray, memoryview))
# Bytes that are sent at once: of all shards together, and of each at least.
_HELD_BYTES = 2**20
_FLUSH_BYTES = 32 * 1024
_NEVER = float("inf")

# Seconds to see who waits for a load.
_LOOK = 1.0
_WAITING = own("""
    select a.pid, a.application_name from pg_catalog.pg_stat_activity a
    where %s = any (pg_catalog.pg_blocking_pids(a.pid))
""")

Place = Callable[[list[Sequence[Any]]], list[tuple[list[Sequence[Any]], Iterable[bytearray]]]]


def copy_into(
    router: Router,
    table: str,
    rows: Iterable[Sequence[Any]],
    *,
    columns: Sequence[str],
    binary: bool | None,
    until: float | None,
    progress: Callable[[int], None] | None,
) -> dict[str, int]:
    """See `Router.copy_into`; `until` is in monotonic seconds."""
    topology = router.topology
    placement = topology.placement(table)
    if isinstance(placement, Sharded):
        router._outdated.check(placement.keyspace, topology)
    names = _shards_of(topology, table)
    positions = _key_positions(topology, table, columns)
    defaults: dict[str, str] = {}
    if len(names) > 1:
        catalog = planning.catalog_of(router, min(router._deadline(None), until or _NEVER))
        facts = catalog.tables.get(qualified(table))
        made = loaded(facts, columns, catalog) if facts is not None and isinstance(placement, Reference) else None
        if made is not None:
            return copies_load.copy_into(router, made, rows, columns, until, progress)
        defaults = moment_defaults(facts, catalog) if facts is not None else {}
        defaults = {name: default for name, default in defaults.items() if name not in columns}
    taken = gather.take_all(router, names, min(router._deadline(None), until or _NEVER), readonly=False)
    streams = [Stream(name, pool, conn, until or _NEVER) for name, (pool, conn) in taken.items()]
    load = _Load(topology, table, list(columns), positions, streams, defaults, progress)
    try:
        try:
            counts = load.run(rows, binary)
        except LoadError as error:
            if any(isinstance(failure, psycopg.errors.LockNotAvailable) for failure in error.failures.values()):
                raise _waited(router, streams, error) from error
            raise
        return _commit(streams, counts)
    finally:
        for stream in streams:
            if not stream.pool.watchdog.release(stream.watch):
                stream.conn.close()
        give_all([(stream.pool, stream.conn) for stream in streams], partial(_aborted, streams, load.failure))


def _waited(router: Router, streams: Sequence[Stream], error: LoadError) -> LoadError:
    """The error of a load that has given way, with those that wait for it: nothing is undone yet."""
    holding = [stream for stream in streams if stream.shard not in error.failures]
    outcomes = run_all([partial(_waiting, router, stream) for stream in holding])
    found = [
        f"on shard {stream.shard} {who} waits for this load"
        for stream, (who, _) in zip(holding, outcomes, strict=True)
        if who
    ]
    return LoadError(
        str(error).partition("\n")[0],
        failures=error.failures,
        rolled_back=error.rolled_back,
        detail="; ".join(
            [f"on shard {name} it waited too long for a lock of another transaction" for name in error.failures] + found
        ),
        hint="Load again when the other is through; loads of the same keys one after the other do not meet.",
    )


def _waiting(router: Router, stream: Stream) -> str:
    """The processes that wait for what the load holds on a shard; empty when that cannot be learned."""
    pid = stream.conn.info.backend_pid
    try:
        found = router.shard(stream.shard).execute(_WAITING, (pid,), timeout=_LOOK, row_factory=tuple_row)
    except (ShardError, psycopg.Error):
        return ""
    return ", ".join(f"process {number}" + (f" ({name})" if name else "") for number, name in found.rows)


def _aborted(streams: Sequence[Stream], failure: BaseException | None) -> None:
    """Undo what has failed; not before its error is known, for an interrupt may come meanwhile."""
    if failure is not None:
        run_all([partial(stream.abort, failure) for stream in streams])


def _shards_of(topology: Topology, table: str) -> list[str]:
    match topology.placement(table):
        case Sharded(keyspace, _):
            owners = set(topology.keyspaces[keyspace].shard_names())
            return [name for name in topology.shards if name in owners]
        case Reference():
            return list(topology.shards)
        case Single(shard):
            return [shard]


def _key_positions(topology: Topology, table: str, columns: Sequence[str]) -> tuple[int, ...]:
    """Where in a row the parts of its key are; empty when the table has no key."""
    placement = topology.placement(table)
    if not isinstance(placement, Sharded):
        return ()
    missing = [column for column in placement.key_columns if column not in columns]
    if missing:
        raise MissingKey(
            f"the rows of {table} cannot be placed without {', '.join(missing)}",
            detail=f"columns given: {', '.join(columns)}",
            hint=f"{table} is placed by {', '.join(placement.key_columns)}: add it to columns=[…] and to each row.",
        )
    return tuple(list(columns).index(column) for column in placement.key_columns)


def _key_types(topology: Topology, table: str) -> dict[str, KeyType]:
    """The key columns, in order, with the types of the key's parts; none when the table has no key."""
    placement = topology.placement(table)
    if not isinstance(placement, Sharded):
        return {}
    kinds = topology.keyspaces[placement.keyspace].key_types
    return dict(zip(placement.key_columns, kinds, strict=True))


class _Room:
    """How many rows are held at a time: so many that they cost little each, and fewer that are wide."""

    def __init__(self) -> None:
        self._most = _BATCH_ROWS
        self._widest = 0

    def __call__(self, batch: Sequence[Sequence[Any]]) -> int:
        """The rows that may be read before it is asked again: one first, to see how wide it is; 0 when it is enough."""
        if not batch:
            self._widest = 1
            return 1
        self._widest = max(self._widest, _width(batch[-1]))
        most = min(self._most, _BATCH_BYTES // self._widest)
        return max(0, min(_SAMPLED_ROWS, most - len(batch)))

    def took(self, rows: int, size: int) -> None:
        """What so many rows were in the end: values that do not tell their width are known by it."""
        self._most = _BATCH_ROWS if size < _BATCH_BYTES else max(1, rows * _BATCH_BYTES // size)


def _width(row: Sequence[Any]) -> int:
    width = 0
    for value in row:
        if type(value) in _SIZED:
            width += len(value)
    return width


class _Load:
    """One `copy_into` under way, up to the point where every shard has taken all its rows."""

    def __init__(
        self,
        topology: Topology,
        table: str,
        columns: list[str],
        positions: tuple[int, ...],
        streams: list[Stream],
        defaults: Mapping[str, str],
        progress: Callable[[int], None] | None,
    ) -> None:
        self._topology = topology
        self._table = table
        self._columns = columns
        self._positions = positions
        self._key = _key_types(topology, table)
        self._patience = topology.timeout
        self._streams = streams
        # What a first shard makes of the defaults that hold the moment: all rows have it.
        self._defaults = defaults
        self._told: tuple[Any, ...] = ()
        self._progress = progress or (lambda count: None)
        self._record = 0
        self._room = _Room()
        # Each buffer that is sent costs a turn of the event loop: 32 KiB at a time take a tenth longer altogether.
        self._most_held = max(_FLUSH_BYTES, _HELD_BYTES // len(streams))
        self._target: Target
        self._binary = False
        self._place: Place | None = None
        self._check: Callable[[Sequence[Sequence[Any]]], None] | None = None
        self._moments: Sequence[int] = ()
        self._format_row: Callable[[Sequence[Any], Any, bytearray], None] = format_row_text
        # True while the caller's own iterable runs: what it raises is passed on as it is.
        self._reading = False
        self.failure: BaseException | None = None

    def run(self, rows: Iterable[Sequence[Any]], binary: bool | None) -> dict[str, int]:
        try:
            self._target = self._read_target()
            self._copy(rows, binary)
            return self._finish()
        except BaseException as error:
            self.failure = error
            explained = self._explain(error)
            if explained is error:
                error.add_note(f"nothing was loaded into {self._table}: rolled back on every shard")
                raise
            raise explained from (error.__cause__ if isinstance(error, ShardFailed) else error)

    def _read_target(self) -> Target:
        """What the shards tell of the table; of what may store another key, each of them."""
        outcomes = run_all([partial(self._found, stream) for stream in self._streams])
        failures: dict[str, BaseException] = {}
        for _, error in outcomes:
            if isinstance(error, ShardFailed):
                failures |= error.failures
            elif error is not None:
                raise error
        if failures:
            raise self._refused(failures)
        first: Target = outcomes[0][0]
        return first

    def _found(self, stream: Stream) -> Target:
        table = quote_table(qualified(self._table))
        found = target(stream.ask(TARGET_QUERY, (table,), self._patience))
        if not found.columns:
            raise LoadError(
                f"table {self._table} does not exist on shard {stream.shard}",
                hint="Create it on every shard first, for example with scatter().",
            )
        for column in self._columns:
            if column not in found.columns:
                raise LoadError(f'table {self._table} has no column "{column}"', hint=nearest(column, found.columns))
        check_key(found, self._table, self._key)
        return found

    def _copy(self, rows: Iterable[Sequence[Any]], binary: bool | None) -> None:
        """Read the rows in batches, which cost less a row than one by one, and few enough to be held."""
        oids = [self._target.columns[column].oid for column in self._columns]
        self._reading = True
        for batch in batches(rows, self._room):
            self._reading = False
            if self._place is None:
                self._begin(self._is_binary(binary, oids, batch), oids)
            before = self._held
            try:
                self._encode(batch)
            except Exception:
                self._find_bad(batch)
                raise
            self._record += len(batch)
            self._room.took(len(batch), self._held - before)
            for stream in self._streams:
                if len(stream.buffer) >= self._most_held:
                    stream.flush()
            self._progress(len(batch))
            self._reading = True
        self._reading = False
        if self._place is None:
            self._begin(False, oids)

    @property
    def _held(self) -> int:
        return sum([len(stream.buffer) for stream in self._streams])

    def _encode(self, batch: list[Sequence[Any]]) -> None:
        """Put each row into the buffer of its shard: all at once, in loops of C."""
        width = len(self._columns)
        if set(map(len, batch)) != {width}:
            wrong = next(row for row in batch if len(row) != width)
            raise ValueError(f"{len(wrong)} values for {width} columns")
        if self._check is not None:
            self._check(batch)
        for place in self._moments:
            check_moments(row[place] for row in batch)
        if self._told:
            batch = [(*row, *self._told) for row in batch]
        assert self._place is not None
        for rows, buffers in self._place(batch):
            deque(map(self._format_row, rows, repeat(self._streams[0].transformer), buffers), maxlen=0)

    def _find_bad(self, batch: list[Sequence[Any]]) -> None:
        """Raise the error of the first row of the batch that has one, with its number in `_record`."""
        for row in batch:
            self._record += 1
            self._encode([row])

    def _is_binary(self, asked: bool | None, oids: Sequence[int], batch: Sequence[Sequence[Any]]) -> bool:
        """Whether the load is binary: by the columns' types and, unless that is asked for, by all first rows."""
        if asked is False:
            return False
        wrong = unfit(oids, batch)
        if asked and wrong is not None:
            row, column = wrong
            name = self._columns[column]
            raise LoadError(
                f"nothing was loaded into {self._table}: record {row + 1} is bad",
                record=row + 1,
                rolled_back=[stream.shard for stream in self._streams],
                detail=f"Column {name} is {self._target.columns[name].type}: binary COPY does not take a "
                f"{type(batch[row][column]).__name__} into it.",
                hint="Load it with binary=False, or leave binary away: then it is chosen by the first rows.",
            )
        return wrong is None

    def _begin(self, binary: bool, oids: list[int]) -> None:
        """Start the COPY on every shard."""
        defaults = [self._target.columns[name].made(default) for name, default in self._defaults.items()]
        self._told = self._streams[0].values(defaults, self._patience, binary=binary)
        types = [*sent_types(oids), *(BYTES for _ in self._defaults)]
        statement = sql.SQL("COPY {} ({}) FROM STDIN{}").format(
            sql.Identifier(*qualified(self._table).split(".", 1)),
            sql.SQL(", ").join(map(sql.Identifier, [*self._columns, *self._defaults])),
            sql.SQL(" (FORMAT BINARY)" if binary else ""),
        )
        table = qualified(self._table)
        locks = Copies(table).locks if table in self._topology.reference_tables else ()
        for stream in self._streams:
            try:
                if self._positions and len(self._streams) > 1:
                    stream.give_way(sql.Identifier(*qualified(self._table).split(".", 1)))
                stream.begin(statement, types if binary else None, locks)
            except psycopg.Error as error:
                raise ShardFailed(stream.shard, stream.explained(error)) from error
        # Rows are encoded by one transformer for all: the way in which text is sent has to be the same everywhere.
        encodings = {stream.conn.info.encoding for stream in self._streams}
        if len(encodings) > 1:
            raise LoadError(f"the shards differ in client_encoding: {', '.join(sorted(encodings))}")
        self._format_row = format_row_binary if binary else format_row_text
        self._check = range_check(oids, self._columns) if binary else None
        self._moments = moments(oids) if not binary and len(self._streams) > 1 else ()
        self._binary = binary
        self._place = self._placing()

    def _placing(self) -> Place:
        """How a batch is dealt out: rows with the buffer that each goes to, once for every copy of a row."""
        if not self._positions:
            buffers = [stream.buffer for stream in self._streams]
            return lambda batch: [(batch, repeat(buffer)) for buffer in buffers]
        keyspace = self._topology.keyspace(table=self._table)
        buffer_of = {stream.shard: stream.buffer for stream in self._streams}
        lookup = make_batch_lookup(keyspace.partitioning, [buffer_of[shard] for shard in keyspace.shard_by_bucket])
        key_of = itemgetter(*self._positions)
        stored = stored_key(self._target, self._key)
        if stored is not None:
            return lambda batch: [(batch, lookup(list(map(stored, map(key_of, batch)))))]
        return lambda batch: [(batch, lookup(list(map(key_of, batch))))]

    def _finish(self) -> dict[str, int]:
        outcomes = run_all([stream.finish for stream in self._streams])
        failures: dict[str, BaseException] = {}
        for stream, (_, error) in zip(self._streams, outcomes, strict=True):
            if error is not None and not isinstance(error, psycopg.Error | ShardFailed):
                raise error
            if error is not None:
                told = error.failures[stream.shard] if isinstance(error, ShardFailed) else None
                failures[stream.shard] = told or stream.explained(error)
        if failures:
            raise self._refused(failures)
        return {stream.shard: count for stream, (count, _) in zip(self._streams, outcomes, strict=True)}

    def _explain(self, error: BaseException) -> BaseException:
        """The error as the caller is to see it: a bad row by its number, a shard's failure by its name."""
        if isinstance(error, ShardFailed):
            return self._refused(error.failures)
        if self._reading or not self._record or isinstance(error, LoadError) or not isinstance(error, Exception):
            return error
        return LoadError(
            f"nothing was loaded into {self._table}: record {self._record} is bad",
            record=self._record,
            rolled_back=[stream.shard for stream in self._streams],
            detail=first_line(error),
            hint="Records are counted from 1. Correct or leave out the record and load again"
            + (", or load all as text: binary=False." if self._binary else "."),
        )

    def _refused(self, failures: Mapping[str, BaseException]) -> LoadError:
        error = LoadError(
            f"nothing was loaded into {self._table}: {len(failures)} of {len(self._streams)} shards failed",
            failures=failures,
            rolled_back=[stream.shard for stream in self._streams],
            rejected={shard: number for shard, failure in failures.items() if (number := copy_line(failure))},
        )
        error.__cause__ = next(iter(failures.values()))
        return error


def _commit(streams: Sequence[Stream], counts: dict[str, int]) -> dict[str, int]:
    """COMMIT on all shards at once; each has taken all its rows, and they hold: what fails now is the shard."""
    outcomes = run_all([stream.commit for stream in streams])
    failures = {
        stream.shard: stream.explained(error)
        for stream, (_, error) in zip(streams, outcomes, strict=True)
        if error is not None
    }
    if not failures:
        return counts
    lost = [stream.shard for stream in streams if stream.shard in failures and is_lost(stream.conn)]
    raise LoadError(
        f"the load was committed on {len(streams) - len(failures)} of {len(streams)} shards",
        committed={shard: count for shard, count in counts.items() if shard not in failures},
        rolled_back=[shard for shard in failures if shard not in lost],
        unknown=lost,
        failures=failures,
        hint="Load again only the keys of the shards that hold nothing: for_keys() tells which those are.",
    ) from next(iter(failures.values()))
