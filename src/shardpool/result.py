"""What a statement answered: rows that are decoded when they are first read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from psycopg import Column
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq.abc import PGresult
from psycopg.rows import RowFactory, tuple_row

from .query.bound import Bound
from .query.plan import Plan


class _Shape:
    """The part of a cursor that psycopg's row factories and `Column` look at."""

    __slots__ = ("_encoding", "adapters", "pgresult")

    def __init__(self, pgresult: PGresult, encoding: str, adapters: AdaptersMap) -> None:
        self.pgresult = pgresult
        self._encoding = encoding
        self.adapters = adapters


class Result:
    """The answer of one statement. Iterating over it, `len()` and indexing are those of `rows`.

    The rows are all here already: reading them does no I/O. They are decoded at the first look, by the settings of the
    connection at the time of the answer. `shards` names the shards that answered.
    """

    def __init__(
        self,
        pgresult: PGresult,
        conn: Any,
        shards: tuple[str, ...],
        row_factory: RowFactory[Any] | None = None,
        transformer: Any = None,
        bound: Bound | None = None,
    ) -> None:
        self.shards = shards
        self._bound = bound
        self._planned: Plan | None = None
        self._pgresult = pgresult
        self._row_factory: Any = row_factory or conn.row_factory or tuple_row
        # Loaders take the session's TimeZone and DateStyle when they are made, so they are made now.
        if transformer is None:
            transformer = Transformer(conn)
            transformer.set_pgresult(pgresult)
        self._transformer = transformer
        self._rows: list[Any] | None = None

    # Not a cached_property: up to Python 3.11 that takes a lock, which all results share while one of them is decoded.
    @property
    def rows(self) -> list[Any]:
        """All rows, made by the row factory (tuples by default); empty for a statement that gives none."""
        if self._rows is None:
            self._rows = self._load()
        return self._rows

    def _load(self) -> list[Any]:
        count = self._pgresult.ntuples
        if not count:
            return []
        make_row = tuple if self._row_factory is tuple_row else self._row_factory(self._shape())
        rows: list[Any] = self._transformer.load_rows(0, count, make_row)
        return rows

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        encoding = self._transformer.encoding
        names = (self._pgresult.fname(index) for index in range(self._pgresult.nfields))
        return tuple((name or b"").decode(encoding) for name in names)

    @cached_property
    def description(self) -> list[Column] | None:
        """The columns as psycopg describes them; None for a statement that gives no rows."""
        if not self._pgresult.nfields:
            return None
        shape: Any = self._shape()
        return [Column(shape, index) for index in range(self._pgresult.nfields)]

    @property
    def rowcount(self) -> int:
        """Rows given, or touched by a write; -1 where PostgreSQL tells none."""
        if self._pgresult.nfields:
            return self._pgresult.ntuples
        touched = self._pgresult.command_tuples
        return -1 if touched is None else touched

    @property
    def plan(self) -> Bound | None:
        """How the statement was routed; None for one that was sent to a shard by its key or name."""
        if self._bound is None and self._planned is not None:
            self._bound = Bound(self._planned, "one", self.shards)
        return self._bound

    @property
    def statusmessage(self) -> str | None:
        """PostgreSQL's command tag, such as `INSERT 0 1`."""
        status = self._pgresult.command_status
        return status.decode() if status else None

    def _shape(self) -> _Shape:
        return _Shape(self._pgresult, self._transformer.encoding, self._transformer.adapters)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return self._pgresult.ntuples

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]

    def one(self) -> Any:
        """The only row; `LookupError` when there are none or several."""
        if len(self) != 1:
            raise LookupError(f"{len(self)} rows where one was asked for, from {', '.join(self.shards)}")
        return self.rows[0]

    def __repr__(self) -> str:
        return f"<Result {self.statusmessage!r} from {', '.join(self.shards)}>"
