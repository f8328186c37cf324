"""`stream`: the rows of a statement as they come, with bounded memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from functools import partial
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import Transformer
from psycopg.rows import RowFactory, tuple_row

from .._concurrency import Overdue, async_drive_flow
from .._flow import begun, chunks, run
from .._leg import BEGIN_READ_ONLY, Statement
from .._ship import TypesDiffer, brought, check_types
from ..errors import DeadlineExceeded, ScatterError, StaleTopology, UnsupportedQuery, first_line
from ..query.bound import Bound, Fanout, check_fanout
from ..query.merger import Merger
from ..query.merging import NotHere, bound_value, row_keys
from ..query.plan import Gathered, Shipped
from ..result import hide, shape_of
from . import data_errors, freshness, gather, planning, shipping
from .gathering import local
from .lease import Params, is_lost, unknown
from .planning import Planned
from .pools import give_all
from .statements import statement_on

if TYPE_CHECKING:
    from .router import AsyncRouter

Conns = dict[str, AsyncConnection[Any]]
# Rows of each shard that are decoded first, so that the first ones come soon.
_FIRST_ROWS = 32
Deadline = Callable[[], float]


async def stream(
    router: AsyncRouter,
    query: Any,
    params: Params | None,
    *,
    size: int,
    timeout: float | None,
    readonly: bool,
    binary: bool,
    row_factory: RowFactory[Any] | None,
    fanout: Fanout,
    strategy: str | None,
) -> AsyncGenerator[Any, None]:
    """See `AsyncRouter.stream`."""
    end = None if timeout is None else monotonic() + timeout

    def deadline() -> float:
        # Without a timeout of its own only each wait is bounded: how long all takes is up to the caller.
        return router._deadline(None) if end is None else end

    query = await planning.as_text(router, query, deadline())
    while True:
        found = await planning.planned(router, query, params, deadline(), strategy)
        if found.plan.writes:
            raise UnsupportedQuery(f"{found.plan.verb} cannot be streamed", hint="Run it with execute().")
        bound = await planning.bound(router, found, params, deadline(), strategy)
        check_fanout(bound, fanout)
        if not await freshness.is_fresh(router, bound.shards, deadline(), readonly=readonly):
            continue
        if bound.strategy == "one" or await planning.are_alike(router, bound, deadline()):
            break
    given = again = False
    while True:
        blocks = _answer(router, found, bound, query, params, deadline, size, readonly, binary, row_factory, again)
        try:
            async for rows in blocks:
                given = given or bool(rows)
                for row in rows:
                    yield row
            return
        except _Again:
            again = True
            continue
        except (NotHere, TypesDiffer, *shipping.UNFIT_FOR_A_TABLE) as reason:
            # Before the first row: later the shards' answers have been seen to fit.
            scattered = bound.scattered
            how = "" if scattered is None else scattered.name
            if isinstance(reason, psycopg.Error) and how != "combine":
                raise
            if how == "pull" or given:
                raise shipping.unlike(reason) from reason
            unfit: Exception = reason
        except psycopg.Error as error:
            if given or not data_errors.is_doubtful(error, bound.scattered):
                raise
            unfit = error
        finally:
            await blocks.aclose()
        if data_errors.is_doubtful(unfit, bound.scattered):
            found, bound = await data_errors.as_one_server(router, query, params, deadline())
        else:
            found, bound = await planning.otherwise(router, query, params, deadline(), unfit)


class _Again(Exception):
    """Connections were lost before the first row: it is run once more."""


async def _answer(
    router: AsyncRouter,
    found: Planned,
    bound: Bound,
    query: Any,
    params: Params | None,
    deadline: Deadline,
    size: int,
    readonly: bool,
    binary: bool,
    row_factory: RowFactory[Any] | None,
    again: bool,
) -> AsyncGenerator[list[Any], None]:
    """The rows by one plan, some at a time; `again` in transactions that may only read.

    Before it gives any, it raises what says that it has to be another plan, or once more.
    """
    limit, offset = None, 0
    if isinstance(bound.scattered, Gathered):
        values = found.arrange(params)
        if bound.scattered.add:
            raise NotHere("values are added when all are there")
        limit, offset = bound_value(bound.scattered.limit, values), bound_value(bound.scattered.offset, values) or 0
    router._counts.add(bound.strategy)
    names = bound.shards or (planning.any_shard(router),)
    shipped = isinstance(bound.scattered, Shipped)
    try:
        taken = await gather.take_all(router, names, deadline(), readonly and not shipped, topology=found.topology)
    except gather.Moved:
        raise StaleTopology(
            "the topology was reloaded between the plan of this stream and its beginning",
            hint="Start it again: nothing was read.",
        ) from None
    conns = {name: conn for name, (_, conn) in taken.items()}
    reader = _Reader(bound, deadline, size, binary, row_factory)
    given = False
    try:
        for conn in conns.values():
            if not conn.autocommit:
                await conn.set_autocommit(True)
        if shipped:
            conns = await reader.bring(router, found, query, params, conns)
        elif again:
            for conn in conns.values():
                await async_drive_flow(run(conn, BEGIN_READ_ONLY), deadline())
        statements = [reader.statement(conn, query, params) for conn in conns.values()]
        async for rows in reader.read(conns, statements, offset, limit):
            given = given or bool(rows)
            yield rows
    except Overdue:
        shipping.tell(taken, None)
        raise DeadlineExceeded(
            "the deadline passed while rows were streamed",
            shard=names[0],
            detail=f"from {', '.join(names)}",
            hint="Give it more time with timeout=….",
        ) from None
    except psycopg.Error as error:
        shipping.tell(taken, error)
        failures = {name: shipping.lost(name, error) for name, (_, conn) in taken.items() if is_lost(conn)}
        if again and isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            # It writes after all, in a view, an operator or a cast; and may have done so the first time.
            raise unknown(taken[names[0]][0], "query", first_line(error)) from error
        if not failures:
            raise
        if not (given or again) and gather.is_repeated(router, query, dict.fromkeys(failures, error), taken):
            raise _Again from error
        raise ScatterError(f"{len(failures)} of {len(taken)} shards failed", failures=failures) from error
    finally:
        held = [conn for _, conn in taken.values()]
        await give_all(taken.values(), partial(shipping.rolled_back, held, deadline()))


class _Reader:
    """Reads the answers of some connections, in the order of the plan."""

    def __init__(
        self, bound: Bound, deadline: Deadline, size: int, binary: bool, row_factory: RowFactory[Any] | None
    ) -> None:
        self._bound = bound
        self._deadline = deadline
        self._size = size
        self._binary = binary
        self._row_factory = row_factory
        self._final: Statement | None = None
        self._described: Any = None

    async def bring(
        self, router: AsyncRouter, found: Planned, query: Any, params: Params | None, conns: Conns
    ) -> Conns:
        """Bring the rows to one shard; gives its connection, on which the final statement is then read."""
        prepared = shipping.prepare(router, found, self._bound, query, params, conns, self._binary)
        flow = brought(prepared.sources, conns, prepared.at, prepared.original, prepared.copied, prepared.transport)
        self._described = await async_drive_flow(flow, self._deadline())
        self._final = prepared.final
        return {prepared.at: conns[prepared.at]}

    def statement(self, conn: AsyncConnection[Any], query: Any, params: Params | None) -> Statement:
        if self._final is not None:
            return self._final
        original = statement_on(conn, query, params, self._binary)
        plan = self._bound.scattered
        return local(plan, self._bound, original, conn.info.encoding) if isinstance(plan, Gathered) else original

    async def read(
        self, conns: Conns, statements: Sequence[Statement], offset: int, limit: int | None
    ) -> AsyncIterator[list[Any]]:
        """Lists of rows, in their order; of what OFFSET and LIMIT cut off nothing is decoded."""
        window = _Window(offset, limit)
        all_conns = list(conns.values())
        await async_drive_flow(begun(all_conns, statements, self._size), self._deadline())
        loaders = [_Loader(conn, self._bound, self._binary, self._row_factory) for conn in all_conns]
        plan = self._bound.scattered
        if isinstance(plan, Gathered) and plan.sort:
            async for rows in self._merged(all_conns, loaders, lazily=window.cuts):
                kept = rows[window.slice(len(rows))]
                yield [load() for load in kept] if window.cuts else kept
                if window.is_full:
                    return
            return
        left = list(zip(all_conns, loaders, strict=True))
        while left:
            conn, loader = left[0]
            (found,) = await async_drive_flow(chunks([conn], self._size), self._deadline())
            if not found:
                left.pop(0)
                continue
            self._check(found[0])
            yield [row for chunk in found for row in loader.rows(chunk, window.slice(chunk.ntuples))]
            if window.is_full:
                return

    def _check(self, chunk: Any) -> None:
        if self._described is not None:
            check_types(self._described, chunk, exactly=False)
            self._described = None

    async def _merged(
        self, conns: Sequence[AsyncConnection[Any]], loaders: list[_Loader], *, lazily: bool
    ) -> AsyncIterator[list[Any]]:
        """Lists of rows in their common order; `lazily`, of functions that decode them."""
        merger = Merger(len(conns))
        most = min(_FIRST_ROWS, self._size)
        while True:
            while wanted := merger.wanted:
                found = await async_drive_flow(chunks([conns[number] for number in wanted], most), self._deadline())
                for number, results in zip(wanted, found, strict=True):
                    if results:
                        loaders[number].feed(merger, number, results, lazily)
                    else:
                        merger.finish(number)
            most = self._size
            ready = merger.next()
            if not ready:
                return
            yield ready


class _Window:
    """What OFFSET and LIMIT leave of rows that come in lists."""

    def __init__(self, offset: int, limit: int | None) -> None:
        self.cuts = bool(offset) or limit is not None
        self._skip, self._left = offset, limit

    @property
    def is_full(self) -> bool:
        return self._left == 0

    def slice(self, count: int) -> slice:
        """The part of the next so many rows that is kept."""
        start = min(self._skip, count)
        self._skip -= start
        stop = count if self._left is None else min(count, start + self._left)
        if self._left is not None:
            self._left -= stop - start
        return slice(start, stop)


def _narrow(make_row: Any, width: int) -> Any:
    """Make rows of the first columns only."""
    first = itemgetter(slice(width))
    return first if make_row is tuple else lambda values: make_row(first(values))


class _Loader:
    """Makes Python rows of one connection's chunks."""

    def __init__(
        self, conn: AsyncConnection[Any], bound: Bound, binary: bool, row_factory: RowFactory[Any] | None
    ) -> None:
        self._transformer = Transformer(conn)
        self._factory: Any = row_factory or conn.row_factory or tuple_row
        plan = bound.scattered
        self._hidden = plan.hidden if isinstance(plan, Gathered) else 0
        self._sort = plan.sort if isinstance(plan, Gathered) else ()
        self._binary = binary
        self._make_row: Any = None

    def feed(self, merger: Merger, number: int, chunks: Sequence[Any], lazily: bool) -> None:
        """Give chunks to the merger, as rows or as functions that decode them."""
        keys: list[Any] = []
        rows: list[Any] = []
        for chunk in chunks:
            if chunk.ntuples:
                keys += row_keys(chunk, self._sort, self._binary)
                rows += self._later(chunk) if lazily else self.rows(chunk, slice(0, chunk.ntuples))
        merger.feed(number, keys, rows)

    def _later(self, chunk: Any) -> list[Any]:
        return [partial(self._row, chunk, number) for number in range(chunk.ntuples)]

    def _row(self, chunk: Any, number: int) -> Any:
        return self.rows(chunk, slice(number, number + 1))[0]

    def rows(self, chunk: Any, part: slice) -> list[Any]:
        """The decoded rows of a part of the chunk."""
        first = self._make_row is None
        self._transformer.set_pgresult(chunk, set_loaders=first)
        if first:
            width = chunk.nfields - self._hidden
            if self._hidden:
                hide(self._transformer, chunk, width)
            shape = shape_of(chunk, width if self._hidden else None, self._transformer)
            make_row = tuple if self._factory is tuple_row else self._factory(shape)
            self._make_row = _narrow(make_row, width) if self._hidden else make_row
        rows: list[Any] = self._transformer.load_rows(part.start, part.stop, self._make_row)
        return rows
