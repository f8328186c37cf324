# Generated from _async/bulk/batch.py by tools/unasync.py: edit that one, then run `make sync`.
"""`map` and `executemany`: the same for many items, each on the shard of its key, some at once on each shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import psycopg
from psycopg import Connection

from ..._runtime.deadlines import NEVER, Deadline, deadline_after
from ..._runtime.tasks import run_all
from ..._wire.counting import counting
from ...errors import BatchError, ItemFailure, ItemRolledBack, StaleTopology, check_choice, first_line
from ..fleet import redirects
from ..work.handle import ShardHandle

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet
    from ..routes import Route, Routes

Per = Literal["item", "shard", "all"]


class Lender(Protocol):
    """A transaction over several shards."""

    def connections(self, names: Sequence[str]) -> dict[str, Connection[Any]]:
        """The connections of these shards, within it."""


# Calls a function in such a transaction, which has ended by a time in monotonic seconds; again when that is worth it.
Together = Callable[[Callable[[Lender], None], float], None]
Operation = Callable[[Connection[Any], Any], Any]
# In the place of a shard's name, of what is one transaction over all of them.
_ALL = ""
# An item with its place in the input and its route, which follows the item's bucket over a reload.
Numbered = tuple[int, Any, "Route"]
# Does what is to be done with these items on a connection, in their order, and tells how far it has come.
Group = Callable[[Connection[Any], Iterable[Numbered], "_Course"], None]


class _Batch:
    """The outcome of every item, filled in by the workers of the shards."""

    def __init__(self, items: Sequence[Any], progress: Callable[[int], None] | None) -> None:
        self.items = items
        self.results: list[Any] = [None] * len(items)
        self.failures: dict[int, ItemFailure] = {}
        self.is_stopped = False
        self._progress = progress

    def stop(self) -> None:
        """Begin no more items: the caller was interrupted, and a thread cannot be."""
        self.is_stopped = True

    def succeed(self, index: int, result: Any) -> None:
        self.results[index] = result

    def fail(self, index: int, shard: str | None, error: BaseException) -> None:
        self.results[index] = None
        self.failures[index] = ItemFailure(index, self.items[index], shard, error)

    def finished(self, count: int) -> None:
        if self._progress is not None:
            self._progress(count)

    def outcome(self) -> list[Any]:
        if self.failures:
            failures = [self.failures[index] for index in sorted(self.failures)]
            raise BatchError(failures, self.results) from failures[0].error
        return self.results


class _Course:
    """How far the items of one transaction have come on a shard: `at` of them are done."""

    def __init__(self, batch: _Batch, numbered: Sequence[Numbered]) -> None:
        self._batch = batch
        self._numbered = numbered
        self.at = 0

    def succeed(self, result: Any) -> None:
        self._batch.succeed(self._numbered[self.at][0], result)
        self.at += 1

    @property
    def culprit(self) -> int:
        """The index of the item that has failed; the last one's where COMMIT has."""
        return self._numbered[min(self.at, len(self._numbered) - 1)][0]


def run(
    fleet: Fleet,
    routes: Routes,
    operation: Operation | None,
    items: Sequence[Any],
    *,
    key: Callable[[Any], Any],
    keyspace: str | None,
    table: str | None,
    per: Per,
    until: Deadline | None,
    progress: Callable[[int], None] | None,
    together: Together,
    concurrency: int = 1,
    readonly: bool = False,
    query: Any = None,
) -> list[Any]:
    """See `Router.map`; `until` is in monotonic seconds. Without an operation the items are parameters of `query`,
    which all those of a shard are sent with in one go."""
    check_choice("per", per, get_args(Per))
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency!r} is less than 1")
    redirects.until_caught_up(fleet, min(fleet.deadline(None), until or NEVER))
    batch = _Batch(items, progress)
    items_by_shard = _items_by_shard(batch, routes.table.named(keyspace, table), key)

    def route(item: Any) -> Route:
        return routes.of_key(key(item), keyspace, table)

    group = partial(_sent, query) if operation is None else partial(_in_turn, operation)
    options = _Options(fleet, operation, group, route, until, readonly)
    if per == "all":
        _as_one_over_all(options, batch, together)
        return batch.outcome()
    workers: list[Callable[[], None]] = []
    for shard, numbered in items_by_shard.items():
        if per == "shard":
            workers.append(partial(_as_one, options, batch, shard, numbered))
        else:
            left = iter(numbered)
            workers.extend([partial(_one_by_one, options, batch, shard, left)] * min(concurrency, len(numbered)))
    for _, error in run_all(workers, on_interrupt=batch.stop):
        if error is not None:
            raise error
    return batch.outcome()


class _Options:
    def __init__(
        self,
        fleet: Fleet,
        operation: Operation | None,
        group: Group,
        route: Callable[[Any], Route],
        until: Deadline | None,
        readonly: bool,
    ) -> None:
        self.fleet = fleet
        self.operation = operation
        self.group = group
        # That of an item, in the topology of the moment.
        self.route = route
        self.readonly = readonly
        self._until = until

    def deadline(self, items: int = 1) -> Deadline:
        """When work on that many items that begins now must have ended."""
        deadline = deadline_after(items * self.fleet.topology.timeout)
        return deadline if self._until is None else min(deadline, self._until)


def _items_by_shard(
    batch: _Batch, lookup: Callable[[Any], Route], key: Callable[[Any], Any]
) -> dict[str, list[Numbered]]:
    """The items, numbered, by the shard of their key; an item without a shard has failed."""
    found: dict[str, list[Numbered]] = {}
    for index, item in enumerate(batch.items):
        try:
            route = lookup(key(item))
            shard = route.shard
        except Exception as error:  # of key() too, which is the caller's
            batch.fail(index, None, error)
            batch.finished(1)
        else:
            found.setdefault(shard, []).append((index, item, route))
    return found


def _one_by_one(options: _Options, batch: _Batch, shard: str, left: Iterator[Numbered]) -> None:
    """Take items from those that are left for the shard, each in a transaction of its own."""
    # next() on a list's iterator is atomic: two workers of a shard never get the same item.
    for index, item, route in left:
        if batch.is_stopped:
            return
        try:
            batch.succeed(index, _one(options, item, route))
        except Exception as error:
            batch.fail(index, shard, error)
        except BaseException:
            batch.stop()
            raise
        batch.finished(1)


def _one(options: _Options, item: Any, route: Route) -> Any:
    assert options.operation is not None
    operate, deadline = _bound(options.operation, item), options.deadline()
    while True:
        try:
            return route._run_until(operate, deadline, readonly=options.readonly)
        except StaleTopology:
            # Its bucket may have been divided since the look-up.
            stale, route = route, options.route(item)
            if route is stale:
                raise


def _as_one(options: _Options, batch: _Batch, shard: str, numbered: Sequence[Numbered]) -> None:
    """All items of the shard in one transaction, in their order; those that it has given away, where they are then."""
    handle = ShardHandle(options.fleet, shard)
    deadline = options.deadline(len(numbered))
    course = _Course(batch, numbered)

    def still_here() -> Iterator[Numbered]:
        for index, item, route in numbered:
            if batch.is_stopped:
                raise InterruptedError("the batch was interrupted")
            if route.shard != shard:
                raise StaleTopology(f"item {index} has moved to shard {route.shard}", hint="Run the batch again.")
            yield index, item, route

    def operate(conn: Connection[Any]) -> None:
        course.at = 0
        options.group(conn, still_here(), course)

    try:
        handle._run_until(operate, deadline, readonly=options.readonly)
    except (psycopg.DatabaseError, StaleTopology) as error:
        elsewhere = _elsewhere(options, shard, numbered, error, deadline)
        if elsewhere is None:
            _fail_all(batch, shard, numbered, course.culprit, error)
        else:
            for name, items in elsewhere.items():
                _as_one(options, batch, name, items)
            return
    except Exception as error:
        _fail_all(batch, shard, numbered, course.culprit, error)
    except BaseException:
        batch.stop()
        raise
    batch.finished(len(numbered))


def _as_one_over_all(options: _Options, batch: _Batch, together: Together) -> None:
    """All items in one transaction: side by side on their shards, in their order on each."""
    culprit: tuple[int, Exception] | None = None
    if not batch.items or batch.failures:
        for index in range(len(batch.items)):
            if index not in batch.failures:
                first = min(batch.failures)
                batch.fail(index, None, _rolled_back(_ALL, first, batch.failures[first].error))
        return
    until = options.deadline(len(batch.items))

    def on_shard(conn: Connection[Any], numbered: Sequence[Numbered]) -> None:
        nonlocal culprit
        course = _Course(batch, numbered)

        def until_one_fails() -> Iterator[Numbered]:
            for item in numbered:
                if batch.is_stopped or culprit is not None:
                    return
                yield item

        try:
            options.group(conn, until_one_fails(), course)
        except Exception as error:
            culprit = culprit or (course.culprit, error)

    def operate(transaction: Lender) -> None:
        nonlocal culprit
        culprit = None
        items_by_shard: dict[str, list[Numbered]] = {}
        for index, item in enumerate(batch.items):
            route = options.route(item)
            items_by_shard.setdefault(route.shard, []).append((index, item, route))
        conns = transaction.connections(list(items_by_shard))
        workers = [partial(on_shard, conns[shard], numbered) for shard, numbered in items_by_shard.items()]
        for _, error in run_all(workers, on_interrupt=batch.stop):
            if error is not None:
                raise error
        if culprit is not None:
            raise culprit[1]

    try:
        together(operate, until)
    except Exception as error:
        at = culprit[0] if culprit is not None else None
        for index in range(len(batch.items)):
            batch.fail(index, None, error if at in (None, index) else _rolled_back(_ALL, at or 0, error))
    batch.finished(len(batch.items))


def _elsewhere(
    options: _Options, shard: str, numbered: Sequence[Numbered], error: Exception, deadline: Deadline
) -> dict[str, list[Numbered]] | None:
    """The items by the shards that have them by now; None when they are where they were, or nobody knows."""
    found: dict[str, list[Numbered]] = {}
    redirects.until_caught_up(options.fleet, deadline)
    while not found or (found.keys() == {shard} and redirects.is_redirect(error)):
        if redirects.is_redirect(error) and not redirects.followed(options.fleet, error, deadline):
            return None
        found = {}
        try:
            for index, item, _ in numbered:
                route = options.route(item)
                found.setdefault(route.shard, []).append((index, item, route))
        except StaleTopology:
            return None
    return None if found.keys() == {shard} else found


def _fail_all(batch: _Batch, shard: str, numbered: Sequence[Numbered], culprit: int, error: Exception) -> None:
    for index, *_ in numbered:
        batch.fail(index, shard, error if index == culprit else _rolled_back(shard, culprit, error))


def _rolled_back(shard: str, culprit: int, error: BaseException) -> ItemRolledBack:
    where = f"shard {shard}" if shard else "all shards"
    rolled_back = ItemRolledBack(
        f"rolled back with the other items on {where}", detail=f"item {culprit}: {first_line(error)}"
    )
    rolled_back.__cause__ = error
    return rolled_back


def _in_turn(operation: Operation, conn: Connection[Any], numbered: Iterable[Numbered], course: _Course) -> None:
    for _, item, _ in numbered:
        course.succeed(operation(conn, item))


def _sent(query: Any, conn: Connection[Any], numbered: Iterable[Numbered], course: _Course) -> None:
    """A statement with each item as its parameters, all sent before an answer is waited for (libpq's pipeline mode)."""
    cursor = counting(conn.cursor_factory)(conn)
    cursor.told = course.succeed
    taken = 0

    def parameters() -> Iterator[Any]:
        nonlocal taken
        for _, item, _ in numbered:
            taken += 1
            yield item

    try:
        with cursor:
            cursor.executemany(query, parameters())
    except Exception as error:
        if getattr(error, "sqlstate", None) is None and not conn.closed:
            # Not the server's: the parameters could not be sent, while answers to those before were still to come.
            course.at = max(0, taken - 1)
        raise


def _bound(operation: Operation, item: Any) -> Callable[[Connection[Any]], Any]:
    def operate(conn: Connection[Any]) -> Any:
        return operation(conn, item)

    return operate
