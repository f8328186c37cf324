"""`stream`: the rows of a statement as they come, with bounded memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import Transformer
from psycopg.pq import Format
from psycopg.rows import RowFactory, tuple_row

from ..._call import Call
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.drivers import Overdue, async_drive_flow
from ..._wire.flow import begun, chunks, run
from ..._wire.request import BEGIN_READ_ONLY
from ..._wire.statement import Statement
from ..._wire.transfer import TypesDiffer, brought, check_types
from ...errors import DeadlineExceeded, ScatterError, UnsupportedQuery, first_line
from ...query.merge.merger import Merger
from ...query.merge.merging import NotHere, bound_value, row_keys
from ...query.plans.bound import Bound, check_fanout
from ...query.plans.plan import Gathered, Transferred
from ...query.plans.planned import Planned
from ...result import hide, shape_of
from ..fleet import redirects
from ..plans.planner import AsyncPlanner
from ..work.checkout import is_lost
from ..work.outcomes import unknown
from ..work.participants import AsyncParticipants, Moved
from ..work.statements import statement_on
from . import data_errors, transferred
from .gathered import local

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from ..work.session import AsyncSession

Conns = dict[str, AsyncConnection[Any]]
# Rows of each shard that are decoded first, so that the first ones come soon.
_FIRST_ROWS = 32
# Where psycopg's own loaders of integers are, by how it is installed.
_OWN = frozenset(("psycopg.types.numeric", "psycopg_binary._psycopg", "psycopg_c._psycopg"))
DeadlineOf = Callable[[], Deadline]


async def stream(
    fleet: AsyncFleet,
    planner: AsyncPlanner,
    call: Call,
    *,
    size: int,
    timeout: float | None,
) -> AsyncGenerator[Any, None]:
    """See `AsyncRouter.stream`; the call's deadline is not looked at."""
    end = None if timeout is None else deadline_after(timeout)
    within: AsyncSession | None = call.within

    def deadline() -> Deadline:
        # Without a timeout of its own only each wait is bounded: how long all takes is up to the caller.
        soon = fleet.deadline(None) if end is None else end
        return soon if within is None else min(soon, within.until)

    if within is None:
        await redirects.until_caught_up(fleet, deadline())
    call = replace(call, query=await planner.as_text(call.query, deadline()))
    planned, bound = await _planned(planner, call, deadline)
    given = again = False
    while True:
        blocks = _answer(fleet, call, planned, bound, deadline, size, again)
        try:
            async for rows in blocks:
                given = given or bool(rows)
                for row in rows:
                    yield row
            return
        except _Again:
            again = True
            continue
        except Moved:
            # Nothing was read.
            planned, bound = await _planned(planner, call, deadline)
            continue
        except (NotHere, TypesDiffer, *transferred.UNFIT_FOR_A_TABLE) as reason:
            # Before the first row: later the shards' answers have been seen to fit.
            scattered = bound.scattered
            how = "" if scattered is None else scattered.name
            if isinstance(reason, psycopg.Error) and how != "combine":
                if within is not None:
                    within.fail()
                raise
            if how == "pull" or given:
                raise transferred.unlike(reason) from reason
            unfit: Exception = reason
        except psycopg.Error as error:
            if given or within is not None or not data_errors.is_doubtful(error, bound.scattered):
                raise
            unfit = error
        finally:
            await blocks.aclose()
        if data_errors.is_doubtful(unfit, bound.scattered):
            planned, bound = await data_errors.as_one_server(planner, call, deadline())
        else:
            planned, bound = await planner.instead(call.query, call.params, deadline(), unfit)


async def _planned(planner: AsyncPlanner, call: Call, deadline: DeadlineOf) -> tuple[Planned, Bound]:
    """The plan by what the shards have told, and where it goes."""
    while True:
        planned = await planner.plan(call.query, call.params, deadline(), call.strategy)
        if planned.plan.writes:
            raise UnsupportedQuery(f"{planned.plan.verb} cannot be streamed", hint="Run it with execute().")
        bound = await planner.bind(planned, call.params, deadline(), call.strategy)
        check_fanout(bound, call.fanout)
        if not await planner.schema.is_fresh(bound.shards, deadline(), readonly=call.readonly):
            continue
        if bound.strategy == "one" or await planner.schema.are_alike(bound, deadline()):
            return planned, bound


class _Again(Exception):
    """Connections were lost before the first row: it is run once more."""


async def _answer(
    fleet: AsyncFleet, call: Call, planned: Planned, bound: Bound, deadline: DeadlineOf, size: int, again: bool
) -> AsyncGenerator[list[Any], None]:
    """The rows by one plan, some at a time; `again` in transactions that may only read.

    Before it gives any, it raises what says that it has to be another plan, or once more.
    """
    limit, offset = None, 0
    if isinstance(bound.scattered, Gathered):
        values = planned.arrange(call.params)
        if bound.scattered.add:
            raise NotHere("values are added when all are there")
        limit, offset = bound_value(bound.scattered.limit, values), bound_value(bound.scattered.offset, values) or 0
    fleet.calls.took(bound.strategy)
    names: Sequence[str] = bound.shards or (fleet.in_turn()[0],)
    is_transferred = isinstance(bound.scattered, Transferred)
    within: AsyncSession | None = call.within
    middle: str | None = None
    if within is not None:
        if is_transferred:
            middle = transferred.middle_within(call, bound)
        names = list(dict.fromkeys([middle, *names])) if middle else bound.shards or [*within.names, *names][:1]
    participants = await AsyncParticipants.take(
        fleet,
        names,
        deadline(),
        readonly=call.readonly and not is_transferred,
        topology=planned.topology,
        buckets_by_shard=bound.buckets_by_shard,
        reads=not bound.plan.writes,
        within=within,
    )
    if within is not None:
        await within.hold(names, "stream()", deadline())
    conns = participants.conns
    reader = _Reader(bound, deadline, size, call)
    given = is_whole = False
    try:
        if is_transferred:
            conns = await reader.bring(fleet, planned, conns, middle)
        elif again:
            for conn in conns.values():
                await async_drive_flow(run(conn, BEGIN_READ_ONLY), deadline())
        statements = [reader.statement(conn) for conn in conns.values()]
        async for rows in reader.read(conns, statements, offset, limit):
            given = given or bool(rows)
            yield rows
            if within is not None:
                within.check_not_over()
        is_whole = True
    except Overdue:
        _fail(within)
        transferred.tell(participants, None)
        raise DeadlineExceeded(
            "the deadline passed while rows were streamed",
            shard=names[0],
            detail=f"from {', '.join(names)}",
            hint="Give it more time with timeout=….",
        ) from None
    except psycopg.Error as error:
        transferred.tell(participants, error)
        if within is not None:
            if not isinstance(error, transferred.UNFIT_FOR_A_TABLE):
                within.fail()
            raise within.waiting.meant(error) from error.__cause__
        failures = {name: transferred.lost(name, error) for name, conn in participants.conns.items() if is_lost(conn)}
        if again and isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            # It writes after all, in a view, an operator or a cast; and may have done so the first time.
            raise unknown(participants.checkouts[names[0]].pool, "query", first_line(error)) from error
        if not failures:
            raise
        if not (given or again) and participants.is_repeated(call.query, dict.fromkeys(failures, error)):
            raise _Again from error
        raise ScatterError(f"{len(failures)} of {len(participants)} shards failed", failures=failures) from error
    finally:
        held = list(participants.conns.values())
        if within is not None:
            # Of rows that were brought together the tables go with the savepoint.
            await within.let_go(names, undone=is_transferred or not is_whole)
        await participants.end(partial(transferred.rolled_back, held, deadline()))


def _fail(within: AsyncSession | None) -> None:
    if within is not None:
        within.fail()


class _Reader:
    """Reads the answers of some connections, in the order of the plan."""

    def __init__(self, bound: Bound, deadline: DeadlineOf, size: int, call: Call) -> None:
        self._bound = bound
        self._deadline = deadline
        self._size = size
        self._call = call
        self._final: Statement | None = None
        self._described: Any = None

    async def bring(self, fleet: AsyncFleet, planned: Planned, conns: Conns, middle: str | None) -> Conns:
        """Bring the rows to one shard; gives its connection, on which the final statement is then read."""
        prepared = transferred.prepare(fleet, self._call, planned, self._bound, conns, middle)
        flow = brought(
            prepared.sources,
            conns,
            prepared.at,
            prepared.original,
            prepared.copied,
            prepared.transport,
            within=middle is not None,
        )
        self._described = await async_drive_flow(flow, self._deadline())
        self._final = prepared.final
        return {prepared.at: conns[prepared.at]}

    def statement(self, conn: AsyncConnection[Any]) -> Statement:
        if self._final is not None:
            return self._final
        original = statement_on(conn, self._call.query, self._call.params, self._call.binary)
        plan = self._bound.scattered
        return local(plan, self._bound, original, conn.info.encoding) if isinstance(plan, Gathered) else original

    async def read(
        self, conns: Conns, statements: Sequence[Statement], offset: int, limit: int | None
    ) -> AsyncIterator[list[Any]]:
        """Lists of rows, in their order; of what OFFSET and LIMIT cut off nothing is decoded."""
        window = _Window(offset, limit)
        all_conns = list(conns.values())
        await async_drive_flow(begun(all_conns, statements, self._size), self._deadline())
        loaders = [_Loader(conn, self._bound, self._call.binary, self._call.row_factory) for conn in all_conns]
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
        self._has_integers = False

    def feed(self, merger: Merger, number: int, chunks: Sequence[Any], lazily: bool) -> None:
        """Give chunks to the merger, as rows or as functions that decode them."""
        chunks = [chunk for chunk in chunks if chunk.ntuples]
        rows: list[Any] = []
        for chunk in chunks:
            rows += self._later(chunk) if lazily else self.rows(chunk)
        parts = ((chunk, range(chunk.ntuples)) for chunk in chunks)
        decoded = rows if self._has_integers and not lazily else None
        merger.feed(number, row_keys(parts, self._sort, self._binary, decoded), rows)

    def _loads_integers(self, chunk: Any) -> bool:
        """Whether the integers that rows are sorted by are loaded as such, and not by a loader of the caller's."""
        numbers = [key.column for key in self._sort if key.decoder == "integer" and key.column >= 0]
        format = Format(chunk.fformat(0)) if numbers else Format.TEXT
        found = [self._transformer.adapters.get_loader(chunk.ftype(number), format) for number in numbers]
        return all(loader is not None and loader.__module__ in _OWN for loader in found)

    def _later(self, chunk: Any) -> list[Any]:
        return [partial(self._row, chunk, number) for number in range(chunk.ntuples)]

    def _row(self, chunk: Any, number: int) -> Any:
        return self.rows(chunk, slice(number, number + 1))[0]

    def rows(self, chunk: Any, part: slice | None = None) -> list[Any]:
        """The decoded rows of the chunk, or of a part of it."""
        first = self._make_row is None
        self._transformer.set_pgresult(chunk, set_loaders=first)
        if first:
            width = chunk.nfields - self._hidden
            if self._hidden:
                hide(self._transformer, chunk, width)
            shape = shape_of(chunk, width if self._hidden else None, self._transformer)
            make_row = tuple if self._factory is tuple_row else self._factory(shape)
            self._make_row = _narrow(make_row, width) if self._hidden else make_row
            self._has_integers = self._factory is tuple_row and self._loads_integers(chunk)
        start, stop = (0, chunk.ntuples) if part is None else (part.start, part.stop)
        rows: list[Any] = self._transformer.load_rows(start, stop, self._make_row)
        return rows
