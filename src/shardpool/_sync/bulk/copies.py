# Generated from _async/bulk/copies.py by tools/unasync.py: edit that one, then run `make sync`.
"""`copy_into` a reference table whose rows each shard would make otherwise: one makes them, the others get them.

A COPY tells nothing of the rows that it has made of defaults and triggers. So these are INSERTs of blocks of rows, in
one unit of transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Connection
from psycopg.adapt import PyFormat, Transformer

from ..._runtime.batches import batches
from ..._runtime.deadlines import Deadline, deadline_after
from ..._wire.statement import Statement
from ...errors import LoadError, ScatterError, ShardpoolError, first_line
from ...query.plans.copies import Loaded
from ..work.copies import CopiesWrite, array
from ..work.joined import write_on
from ..work.participants import Participants
from ..work.transaction import Conflict, Transaction
from ..work.two_phase import obstacle
from .copy_stream import STALL

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet
    from ..work.session import Session

_BLOCK_ROWS = 1000


def copy_into(
    fleet: Fleet,
    loaded: Loaded,
    rows: Iterable[Sequence[Any]],
    columns: Sequence[str],
    until: Deadline | None,
    progress: Callable[[int], None] | None,
    *,
    atomic: bool,
    within: Session | None = None,
) -> dict[str, int]:
    """See `Router.copy_into`; `within` is the transaction that it is part of."""
    names = list(fleet.topology.shards)
    until = deadline_after(7 * 86400) if until is None else until
    soon = min(fleet.deadline(None), until)
    participants = Participants.take(fleet, names, soon, readonly=False, within=within)
    if within is not None:
        within.will_write(names)
    transaction = write_on(fleet, participants, until)
    # The rows are read once: what has been done cannot be done again, so nobody is given way to.
    transaction.in_turn = True
    load = _Load(transaction, loaded, names, next(iter(participants.conns.values())), len(columns), until)
    try:
        if atomic and (refusal := obstacle(participants.pools)) is not None:
            raise refusal
        with within.going_on("copy_into()") if within is not None else nullcontext():
            count = load.run(rows, progress or (lambda count: None))
        transaction.commit()
        return dict.fromkeys(names, count)
    except ScatterError as error:
        raise _told(loaded, error, names, load.record) from error
    finally:
        participants.close_busy()
        participants.end()


class _Load:
    """The blocks of one load; `record` is the number of the rows that have been written."""

    def __init__(
        self,
        transaction: Transaction,
        loaded: Loaded,
        names: list[str],
        conn: Connection[Any],
        width: int,
        until: Deadline,
    ) -> None:
        self._transaction = transaction
        self._loaded = loaded
        self._names = names
        self._conn = conn
        self._width = width
        self._until = until
        self._write = CopiesWrite(transaction, loaded.width, loaded.copies)
        self.record = 0

    def run(self, rows: Iterable[Sequence[Any]], progress: Callable[[int], None]) -> int:
        try:
            for batch in batches(rows, _room):
                self._block(batch)
                progress(len(batch))
            if not self.record:
                self._block([])
        except Exception:
            self._transaction.roll_back()
            raise
        return self.record

    def _block(self, batch: list[Sequence[Any]]) -> None:
        columns = [array(column, self._conn.info.encoding) for column in self._columns(batch)]
        statement = Statement(self._loaded.insert.encode(), columns, [0] * self._width, [0] * self._width)
        self._transaction.deadline = min(self._until, deadline_after(STALL))
        try:
            self._write.run(dict.fromkeys(self._names, statement))
        except (ShardpoolError, psycopg.Error, Conflict) as error:
            failures = error.failures if isinstance(error, ScatterError | Conflict) else {}
            raise LoadError(
                f"nothing was loaded into {self._loaded.table}",
                failures=failures,
                rolled_back=self._names,
                detail=None
                if failures
                else f"{first_line(error)} (records {self.record + 1} to {self.record + len(batch)})",
            ) from error
        self._write.go_on()
        self.record += len(batch)

    def _columns(self, batch: list[Sequence[Any]]) -> list[list[bytes | None]]:
        """The values of each column as texts."""
        columns: list[list[bytes | None]] = [[] for _ in range(self._width)]
        transformer = Transformer(self._conn)
        for number, row in enumerate(batch, self.record + 1):
            try:
                if len(row) != self._width:
                    raise ValueError(f"{len(row)} values for {self._width} columns")
                texts = transformer.dump_sequence(row, [PyFormat.TEXT] * self._width)
            except Exception as error:
                raise LoadError(
                    f"nothing was loaded into {self._loaded.table}: record {number} is bad",
                    record=number,
                    rolled_back=self._names,
                    detail=first_line(error),
                    hint="Records are counted from 1. Correct or leave out the record and load again.",
                ) from error
            for column, text in zip(columns, texts, strict=True):
                column.append(None if text is None else bytes(text))
        return columns


def _room(batch: Sequence[Any]) -> int:
    return _BLOCK_ROWS - len(batch)


def _told(loaded: Loaded, error: ScatterError, names: Sequence[str], count: int) -> LoadError:
    """COMMIT was not confirmed by all."""
    return LoadError(
        f"the load into {loaded.table} was committed on {len(error.results)} of {len(names)} shards",
        committed=dict.fromkeys(error.results, count),
        unknown=[name for name in error.failures if getattr(error.failures[name], "applied", "") == "unknown"],
        rolled_back=[name for name in error.failures if getattr(error.failures[name], "applied", "") != "unknown"],
        failures=error.failures,
        hint="The copies differ now: see check().",
    )
