"""What a statement answered: rows that are decoded when they are first read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from psycopg import Column
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq import Format
from psycopg.pq.abc import PGresult
from psycopg.rows import RowFactory, tuple_row

if TYPE_CHECKING:
    from .query.plans.bound import Bound
    from .query.plans.plan import Plan

_BYTEA, _TEXT = 17, 25


class _CursorShape:
    """The part of a cursor that psycopg's row factories and `Column` look at."""

    __slots__ = ("_encoding", "adapters", "pgresult")

    def __init__(self, pgresult: Any, encoding: str, adapters: AdaptersMap) -> None:
        self.pgresult = pgresult
        self._encoding = encoding
        self.adapters = adapters


class _Narrow:
    """A result whose last columns, by which rows were merged, are not shown."""

    def __init__(self, pgresult: PGresult, width: int) -> None:
        self._pgresult = pgresult
        self.nfields = width

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgresult, name)


class _Silent:
    """A result whose rows are not shown, as if the statement had given none."""

    nfields = ntuples = 0

    def __init__(self, pgresult: PGresult) -> None:
        self._pgresult = pgresult

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgresult, name)


def hide(transformer: Any, pgresult: PGresult, width: int) -> None:
    """Load the columns behind the first `width` as plain text or bytes: they are for sorting, and not looked at."""
    binary = pgresult.nfields > 0 and pgresult.fformat(0) == 1
    plain = _BYTEA if binary else _TEXT
    oids = [pgresult.ftype(number) if number < width else plain for number in range(pgresult.nfields)]
    transformer.set_loader_types(oids, Format.BINARY if binary else Format.TEXT)


def shape_of(pgresult: PGresult, width: int | None, transformer: Any) -> _CursorShape:
    """What row factories look at, of a result's first `width` columns, or of all."""
    return _CursorShape(
        pgresult if width is None else _Narrow(pgresult, width), transformer.encoding, transformer.adapters
    )


class Result:
    """The answer of one statement. Iterating over it, `len()` and indexing are those of `rows`.

    The rows are all here already: reading them does no I/O. They are decoded at the first look, by the settings of the
    connection at the time of the answer. `shards` names the shards that answered.
    """

    # What most results do without is set on the others only.
    _planned: Plan | None = None
    _rows: list[Any] | None = None
    # Of an answer of several shards: the rows to take of them, and how many columns of those.
    _order: Sequence[tuple[int, int]] | None = None
    _width: int | None = None
    # Of an answer that was added up: its values as they would have come.
    _record: Sequence[bytes | None] | None = None
    # What it is the answer of, where servers were told something else.
    _verb = ""

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
        # Of a partial answer: the shards that it is without, and why.
        self.missing: dict[str, BaseException] = {}
        self._bound = bound
        self._pgresult = pgresult
        self._row_factory: Any = row_factory or conn.row_factory or tuple_row
        # Loaders take the session's TimeZone and DateStyle when they are made, so they are made now.
        if transformer is None:
            transformer = Transformer(conn)
            transformer.set_pgresult(pgresult)
        self._transformer = transformer
        # Of an answer of several shards: theirs.
        self._parts: Sequence[PGresult] = (pgresult,)

    @classmethod
    def of(
        cls,
        pgresults: Sequence[PGresult],
        conn: Any,
        bound: Bound,
        row_factory: RowFactory[Any] | None = None,
        *,
        order: Sequence[tuple[int, int]] | None = None,
        width: int | None = None,
        record: Sequence[bytes | None] | None = None,
    ) -> Result:
        """The answers of several shards as one.

        The rows follow one another, or are those that `order` names by (number of the answer, number of the row); the
        first `width` columns are shown. A `record` stands instead of all rows.
        """
        result = cls(pgresults[0], conn, bound.shards, row_factory, bound=bound)
        result._parts = pgresults
        result._order = order
        if width is not None and width != pgresults[0].nfields:
            result._width = width
            hide(result._transformer, pgresults[0], width)
        result._record = record
        return result

    def hide_check(self, returning: bool) -> None:
        """Leave out the last column, which a check has added; and all rows where there were to be none."""
        if returning:
            self._width = self._pgresult.nfields - 1
            hide(self._transformer, self._pgresult, self._width)
        else:
            silent: Any = [_Silent(part) for part in self._parts]
            self._pgresult, self._parts, self._order = silent[0], silent, None

    def as_update(self, bound: Bound) -> Result:
        """This answer of an INSERT as that of the UPDATE that is routed so."""
        self.shards, self._bound, self._verb = bound.shards, bound, "UPDATE"
        return self

    # Not a cached_property: up to Python 3.11 that takes a lock, which all results share while one of them is decoded.
    @property
    def rows(self) -> list[Any]:
        """All rows, made by the row factory (tuples by default); empty for a statement that gives none."""
        if self._rows is None:
            self._rows = self._load()
        return self._rows

    def _load(self) -> list[Any]:
        make_row = tuple if self._row_factory is tuple_row else self._row_factory(self._shape())
        if self._record is not None:
            return [make_row(self._transformer.load_sequence(self._record))]
        if self._width is not None:
            width, whole = self._width, make_row
            make_row = lambda values: whole(values[:width])  # noqa: E731
        if self._order is not None:
            return self._load_ordered(self._order, make_row)
        if len(self._parts) == 1:
            return self._load_part(self._parts[0], 0, self._parts[0].ntuples, make_row)
        return [row for part in self._parts for row in self._load_part(part, 0, part.ntuples, make_row)]

    def _load_ordered(self, order: Sequence[tuple[int, int]], make_row: Any) -> list[Any]:
        """Only rows of the answer are decoded: one that LIMIT cuts off may hold what Python has no value for."""
        spans = [(0, part.ntuples) for part in self._parts]
        if len(order) < sum(end for _, end in spans):
            wanted: list[list[int]] = [[] for _ in self._parts]
            for part, row in order:
                wanted[part].append(row)
            spans = [(min(rows), max(rows) + 1) if rows else (0, 0) for rows in wanted]
        loaded = [self._load_part(part, *span, make_row) for part, span in zip(self._parts, spans, strict=True)]
        return [loaded[part][row - spans[part][0]] for part, row in order]

    def _load_part(self, pgresult: PGresult, start: int, end: int, make_row: Any) -> list[Any]:
        if start == end:
            return []
        if pgresult is not self._pgresult:
            self._transformer.set_pgresult(pgresult, set_loaders=False)
        rows: list[Any] = self._transformer.load_rows(start, end, make_row)
        return rows

    def raw(self) -> list[tuple[bytes | None, ...]]:
        """The rows as the servers sent them, undecoded."""
        if self._record is not None:
            return [tuple(self._record)]
        width = self._shown
        order = self._order
        if order is None:
            order = [(number, row) for number, part in enumerate(self._parts) for row in range(part.ntuples)]
        return [tuple(self._parts[part].get_value(row, column) for column in range(width)) for part, row in order]

    @property
    def _shown(self) -> int:
        return self._pgresult.nfields if self._width is None else self._width

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        encoding = self._transformer.encoding
        names = (self._pgresult.fname(index) for index in range(self._shown))
        return tuple((name or b"").decode(encoding) for name in names)

    @cached_property
    def description(self) -> list[Column] | None:
        """The columns as psycopg describes them; None for a statement that gives no rows."""
        if not self._shown:
            return None
        shape: Any = self._shape()
        return [Column(shape, index) for index in range(self._shown)]

    @property
    def rowcount(self) -> int:
        """Rows given, or touched by a write; -1 where PostgreSQL tells none."""
        if self._shown or self._order:
            return len(self)
        touched = [part.command_tuples for part in self._parts]
        return -1 if any(count is None for count in touched) else sum(count or 0 for count in touched)

    @property
    def plan(self) -> Bound | None:
        """How the statement was routed; None for one that was sent to a shard by its key or name."""
        if self._bound is None and self._planned is not None:
            from .query.plans.bound import Bound

            self._bound = Bound(self._planned, "one", self.shards)
        return self._bound

    @property
    def statusmessage(self) -> str | None:
        """PostgreSQL's command tag, such as `INSERT 0 1`."""
        if self._verb:
            return f"{self._verb} {self.rowcount}"
        status = (self._pgresult.command_status or b"").decode()
        if len(self._parts) > 1 or self._order is not None:
            words = status.split(" ")
            status = " ".join([*words[:-1], str(self.rowcount)]) if words[-1].isdigit() else status
        return status or None

    def _shape(self) -> _CursorShape:
        return shape_of(self._pgresult, self._width, self._transformer)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        if self._record is not None:
            return 1
        return len(self._order) if self._order is not None else sum(part.ntuples for part in self._parts)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]

    def one(self) -> Any:
        """The only row; `LookupError` when there are none or several."""
        if len(self) != 1:
            raise LookupError(f"{len(self)} rows where one was asked for, from {', '.join(self.shards)}")
        return self.rows[0]

    def __repr__(self) -> str:
        return f"<Result {self.statusmessage!r} from {', '.join(self.shards)}>"


class ByShard(dict[str, Any]):
    """What each shard gave, by its name; `missing` holds, by name, why others gave nothing."""

    def __init__(self, results: Mapping[str, Any], missing: Mapping[str, BaseException] | None = None) -> None:
        super().__init__(results)
        self.missing = dict(missing or {})
