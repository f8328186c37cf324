"""`map`: the same operation on many items, each on the shard of its key, some at once on each shard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, get_args

import psycopg
from psycopg import AsyncConnection

from .._concurrency import async_run_all
from ..errors import BatchError, ItemFailure, ItemRolledBack, StaleTopology, check_choice, first_line
from . import moving

if TYPE_CHECKING:
    from .route import AsyncRoute
    from .router import AsyncRouter

Per = Literal["item", "shard"]
Operation = Callable[[AsyncConnection[Any], Any], Awaitable[Any]]
# An item with its place in the input and its route, which follows the item's bucket over a reload.
Numbered = tuple[int, Any, "AsyncRoute"]


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


async def run(
    router: AsyncRouter,
    operation: Operation,
    items: Sequence[Any],
    *,
    key: Callable[[Any], Any],
    keyspace: str | None,
    table: str | None,
    per: Per,
    concurrency: int,
    until: float | None,
    readonly: bool,
    progress: Callable[[int], None] | None,
) -> list[Any]:
    """See `AsyncRouter.map`; `until` is in monotonic seconds."""
    check_choice("per", per, get_args(Per))
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency!r} is less than 1")
    batch = _Batch(items, progress)
    items_by_shard = _items_by_shard(batch, router._state.lookup_named(keyspace, table), key)

    def route(item: Any) -> AsyncRoute:
        return router.for_key(key(item), keyspace=keyspace, table=table)

    options = _Options(router, operation, route, until, readonly)
    workers: list[Callable[[], Awaitable[None]]] = []
    for shard, numbered in items_by_shard.items():
        if per == "shard":
            workers.append(partial(_as_one, options, batch, shard, numbered))
        else:
            left = iter(numbered)
            workers.extend([partial(_one_by_one, options, batch, shard, left)] * min(concurrency, len(numbered)))
    for _, error in await async_run_all(workers, on_interrupt=batch.stop):
        if error is not None:
            raise error
    return batch.outcome()


class _Options:
    def __init__(
        self,
        router: AsyncRouter,
        operation: Operation,
        route: Callable[[Any], AsyncRoute],
        until: float | None,
        readonly: bool,
    ) -> None:
        self.router = router
        self.operation = operation
        # That of an item, in the topology of the moment.
        self.route = route
        self.readonly = readonly
        self._until = until

    def deadline(self, items: int = 1) -> float:
        """When work on that many items that begins now must have ended."""
        deadline = monotonic() + items * self.router.topology.timeout
        return deadline if self._until is None else min(deadline, self._until)


def _items_by_shard(
    batch: _Batch, lookup: Callable[[Any], AsyncRoute], key: Callable[[Any], Any]
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


async def _one_by_one(options: _Options, batch: _Batch, shard: str, left: Iterator[Numbered]) -> None:
    """Take items from those that are left for the shard, each in a transaction of its own."""
    # next() on a list's iterator is atomic: two workers of a shard never get the same item.
    for index, item, route in left:
        if batch.is_stopped:
            return
        try:
            batch.succeed(index, await _one(options, item, route))
        except Exception as error:
            batch.fail(index, shard, error)
        except BaseException:
            batch.stop()
            raise
        batch.finished(1)


async def _one(options: _Options, item: Any, route: AsyncRoute) -> Any:
    operate, deadline = _bound(options.operation, item), options.deadline()
    while True:
        try:
            return await route._run_until(operate, deadline, readonly=options.readonly)
        except StaleTopology:
            # Its bucket may have been divided since the look-up.
            stale, route = route, options.route(item)
            if route is stale:
                raise


async def _as_one(options: _Options, batch: _Batch, shard: str, numbered: Sequence[Numbered]) -> None:
    """All items of the shard in one transaction, in their order; those that it has given away, where they are then."""
    handle = options.router.shard(shard)
    deadline = options.deadline(len(numbered))
    at = 0

    async def operate(conn: AsyncConnection[Any]) -> None:
        nonlocal at
        for number, (index, item, route) in enumerate(numbered):
            at = number
            if batch.is_stopped:
                raise InterruptedError("the batch was interrupted")
            if route.shard != shard:
                raise StaleTopology(f"item {index} has moved to shard {route.shard}", hint="Run the batch again.")
            batch.succeed(index, await options.operation(conn, item))

    try:
        await handle._run_until(operate, deadline, readonly=options.readonly)
    except (psycopg.DatabaseError, StaleTopology) as error:
        elsewhere = await _elsewhere(options, shard, numbered, error, deadline)
        if elsewhere is None:
            _fail_all(batch, shard, numbered, at, error)
        else:
            for name, items in elsewhere.items():
                await _as_one(options, batch, name, items)
            return
    except Exception as error:
        _fail_all(batch, shard, numbered, at, error)
    except BaseException:
        batch.stop()
        raise
    batch.finished(len(numbered))


async def _elsewhere(
    options: _Options, shard: str, numbered: Sequence[Numbered], error: Exception, deadline: float
) -> dict[str, list[Numbered]] | None:
    """The items by the shards that have them by now; None when they are where they were, or nobody knows."""
    found: dict[str, list[Numbered]] = {}
    while not found or (found.keys() == {shard} and moving.is_given_away(error)):
        if moving.is_given_away(error) and not await moving.followed(options.router, error, deadline):
            return None
        found = {}
        try:
            for index, item, _ in numbered:
                route = options.route(item)
                found.setdefault(route.shard, []).append((index, item, route))
        except StaleTopology:
            return None
    return None if found.keys() == {shard} else found


def _fail_all(batch: _Batch, shard: str, numbered: Sequence[Numbered], at: int, error: Exception) -> None:
    culprit = numbered[at][0]
    for index, *_ in numbered:
        batch.fail(index, shard, error if index == culprit else _rolled_back(shard, culprit, error))


def _rolled_back(shard: str, culprit: int, error: Exception) -> ItemRolledBack:
    rolled_back = ItemRolledBack(
        f"rolled back with the other items on shard {shard}", detail=f"item {culprit}: {first_line(error)}"
    )
    rolled_back.__cause__ = error
    return rolled_back


def _bound(operation: Operation, item: Any) -> Callable[[AsyncConnection[Any]], Awaitable[Any]]:
    async def operate(conn: AsyncConnection[Any]) -> Any:
        return await operation(conn, item)

    return operate
