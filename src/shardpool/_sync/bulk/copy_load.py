# Generated from _async/bulk/copy_load.py by tools/unasync.py: edit that one, then run `make sync`.
"""One `copy_into` under way: rows dealt out to the COPY of each shard, and what is wrong with those it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from ..._runtime.batches import Room, batches, one
from ..._runtime.tasks import run_all
from ..._wire.copy_dealers import CsvDealer, Dealer, RefusedRecord, RowDealer
from ..._wire.copy_types import BYTES, ENUM, moments, range_check, sent_types, unfit
from ..._wire.csv_blocks import CsvRecords
from ...control.copy_target import TARGET_QUERY, Target, check_key, stored_key, target
from ...errors import LoadError, first_line, nearest
from ...keys import KeyType
from ...partitioning import make_batch_lookup
from ...query.plans.plan import Copies
from ...quoting import quote_table
from ...topology import Sharded, Topology, qualified
from .copy_stream import ShardFailed, Stream, copy_line

T = TypeVar("T")

# Bytes that are sent at once: of all shards together, and of each at least.
_HELD_BYTES = 2**20
_FLUSH_BYTES = 32 * 1024


class Load:
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
        draw: Callable[[int], list[list[int]]] | None = None,
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
        # The last columns are numbered here: `draw` gives the numbers of so many rows, by column.
        self._draw = draw
        self._progress = progress or (lambda count: None)
        self._record = 0
        self._room = Room()
        # Each buffer that is sent costs a turn of the event loop: 32 KiB at a time take a tenth longer altogether.
        self._most_held = max(_FLUSH_BYTES, _HELD_BYTES // len(streams))
        self._target: Target
        self._binary = False
        # The records of a file, which are passed on as they are.
        self._records: CsvRecords | None = None
        self._dealer: Dealer | None = None
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
        found = [self._target.columns[column] for column in self._columns]
        oids = [ENUM if column.is_enum else column.oid for column in found]
        self._reading = True
        if isinstance(rows, CsvRecords) and self._draw is None:
            self._records = rows
            for blocks in batches(rows.blocks, one):
                self._reading = False
                self._deal(blocks[0], False, oids)
                self._reading = True
        else:
            for batch in batches(rows, self._room):
                self._reading = False
                self._deal(self._numbered(batch), binary, oids)
                self._reading = True
        self._reading = False
        if self._dealer is None:
            self._dealer = self._begin(False, oids, ())

    def _numbered(self, batch: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        if self._draw is None:
            return batch
        numbers = zip(*self._draw(len(batch)), strict=True)
        return [(*row, *own) for row, own in zip(batch, numbers, strict=True)]

    @property
    def _held(self) -> int:
        return sum([len(stream.buffer) for stream in self._streams])

    def _deal(self, batch: Any, binary: bool | None, oids: list[int]) -> None:
        """Put each row into the buffer of its shard, and send the buffers that are full."""
        if self._dealer is None:
            self._dealer = self._begin(self._is_binary(binary, oids, batch), oids, batch)
        before = self._held
        try:
            self._dealer.deal(batch)
        except Exception:
            self._find_bad(self._dealer, batch)
            raise
        self._record += len(batch)
        self._room.took(len(batch), self._held - before)
        for stream in self._streams:
            if len(stream.buffer) >= self._most_held:
                stream.flush()
        self._progress(len(batch))

    def _find_bad(self, dealer: Dealer, batch: Any) -> None:
        """Raise the error of the first row of the batch that has one, with its number in `_record`."""
        for number in range(len(batch)):
            self._record += 1
            dealer.deal(batch[number : number + 1])

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

    def _begin(self, binary: bool, oids: list[int], first: Any) -> Dealer:
        """Start the COPY on every shard."""
        defaults = [self._target.columns[name].made(default) for name, default in self._defaults.items()]
        told = self._streams[0].values(defaults, self._patience, binary=binary)
        types = [*sent_types(oids, first), *(BYTES for _ in self._defaults)] if binary else None
        statement = sql.SQL("COPY {} ({}) FROM STDIN{}").format(
            sql.Identifier(*qualified(self._table).split(".", 1)),
            sql.SQL(", ").join(map(sql.Identifier, [*self._columns, *self._defaults])),
            self._format(binary),
        )
        table = qualified(self._table)
        locks = Copies(table).locks if table in self._topology.reference_tables else ()
        for stream in self._streams:
            try:
                if self._positions and len(self._streams) > 1 and not stream.is_part:
                    stream.give_way(sql.Identifier(*qualified(self._table).split(".", 1)))
                stream.begin(statement, types, locks)
            except psycopg.Error as error:
                raise ShardFailed(stream.shard, stream.explained(error)) from error
        self._binary = binary
        return self._dealing(binary, oids, told)

    def _format(self, binary: bool) -> sql.Composable:
        if binary:
            return sql.SQL(" (FORMAT BINARY)")
        if self._records is None:
            return sql.SQL("")
        form = self._records.form
        return sql.SQL(" (FORMAT csv, DELIMITER {}, NULL {}, ENCODING 'UTF8')").format(form.delimiter, form.null)

    def _dealing(self, binary: bool, oids: Sequence[int], told: tuple[Any, ...]) -> Dealer:
        """What deals the rows out, now that the COPY of each shard takes them."""
        buffers = [stream.buffer for stream in self._streams]
        moment_columns = moments(oids) if not binary and len(self._streams) > 1 else ()
        if self._records is not None:
            parts: list[list[str]] = [[] for _ in buffers]
            lookup, form = self._lookup(parts), self._records.form
            return CsvDealer(buffers, parts, lookup, self._positions, form=form, moments=moment_columns, told=told)
        # Rows are encoded by one transformer for all: the way in which text is sent has to be the same everywhere.
        encodings = {stream.conn.info.encoding for stream in self._streams}
        if len(encodings) > 1:
            raise LoadError(f"the shards differ in client_encoding: {', '.join(sorted(encodings))}")
        return RowDealer(
            buffers,
            self._lookup(buffers),
            self._positions,
            width=len(self._columns),
            transformer=self._streams[0].transformer,
            binary=binary,
            check=range_check(oids, self._columns) if binary else None,
            moments=moment_columns,
            told=told,
        )

    def _lookup(self, targets: Sequence[T]) -> Callable[[Sequence[Any]], list[T]] | None:
        """Which of these, one for each stream, many keys belong to; None when the table has no key."""
        if not self._positions:
            return None
        keyspace = self._topology.keyspace(table=self._table)
        target_of = {stream.shard: target for stream, target in zip(self._streams, targets, strict=True)}
        lookup = make_batch_lookup(keyspace.partitioning, [target_of[shard] for shard in keyspace.shard_by_bucket])
        stored = stored_key(self._target, self._key)
        return lookup if stored is None else lambda keys: lookup(list(map(stored, keys)))

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
        return self._bad(self._record, detail=first_line(error))

    def _refused(self, failures: Mapping[str, BaseException]) -> LoadError:
        lines = {shard: line for shard, failure in failures.items() if (line := copy_line(failure))}
        rows = self._refused_rows(lines)
        told: dict[str, Any] = {
            "failures": failures,
            "rejected": {shard: row.number for shard, row in rows.items()},
        }
        record, first = min([(row.record, shard) for shard, row in rows.items() if row.record], default=(None, None))
        if first is not None:
            error = self._bad(record, line=rows[first].line, detail=_why(failures[first]), **told)
        else:
            error = LoadError(
                f"nothing was loaded into {self._table}: {len(failures)} of {len(self._streams)} shards failed",
                rolled_back=[stream.shard for stream in self._streams],
                **told,
            )
        error.__cause__ = failures[first] if first is not None else next(iter(failures.values()))
        return error

    def _refused_rows(self, lines: Mapping[str, int]) -> dict[str, RefusedRecord]:
        """The rows that end on these lines of the COPYs of their shards."""
        if not isinstance(self._dealer, CsvDealer) or self._records is None:
            return {shard: RefusedRecord(line) for shard, line in lines.items()}
        shards = [stream.shard for stream in self._streams]
        found = self._dealer.refused({shards.index(shard): line for shard, line in lines.items()}, self._records)
        return {shards[at]: row for at, row in found.items()}

    def _bad(self, record: int | None, **told: Any) -> LoadError:
        hint = "Records are counted from 1. Correct or leave out the record and load again"
        return LoadError(
            f"nothing was loaded into {self._table}: record {record} is bad",
            record=record,
            rolled_back=[stream.shard for stream in self._streams],
            hint=hint + (", or load all as text: binary=False." if self._binary else "."),
            **told,
        )


def _why(error: BaseException) -> str:
    """What a server said of a row: its message, and the detail that names the values."""
    detail = error.diag.message_detail if isinstance(error, psycopg.Error) else None
    return first_line(error) + (f" ({detail})" if detail else "")


def _key_types(topology: Topology, table: str) -> dict[str, KeyType]:
    """The key columns, in order, with the types of the key's parts; none when the table has no key."""
    placement = topology.placement(table)
    if not isinstance(placement, Sharded):
        return {}
    kinds = topology.keyspaces[placement.keyspace].key_types
    return dict(zip(placement.key_columns, kinds, strict=True))
