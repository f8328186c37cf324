"""One interface over `Router` and `AsyncRouter`, so that a test or a workload is written once, as coroutines.

Those of `ThreadCalls` never wait for an event loop: a thread runs them from their begin to their end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import aclosing, closing
from time import sleep
from typing import Any, TypeVar, cast

from shardpool import AsyncRouter, Router

T = TypeVar("T")
Params = Sequence[Any] | None


class ThreadCalls:
    """The verbs of a `Router`; each caller that is spawned is a thread."""

    def __init__(self, topology: Any, **options: Any) -> None:
        self.router = Router(topology, **options)
        self.router.open()

    def go(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of these verbs here."""
        try:
            coroutine.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        raise RuntimeError("it waits for an event loop")

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine of these verbs beside others."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(self.go(coroutine))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def stop(self) -> None:
        self.router.close(1.0)

    async def pause(self, seconds: float) -> None:
        sleep(seconds)  # noqa: ASYNC251

    async def execute(self, key: int, sql: str, params: Params = None, **options: Any) -> list[Any]:
        return self.router.for_key(key).execute(sql, params, **options).rows

    async def run(self, key: int, sql: str, params: Params = None, **options: Any) -> Any:
        return self.router.for_key(key).run(lambda conn: conn.execute(sql, params).rowcount, **options)

    async def connection(self, key: int, sql: str, params: Params = None, **options: Any) -> None:
        with self.router.for_key(key).connection(**options) as conn:
            conn.execute(sql, params)

    async def transaction(self, key: int, sql: str, params: Params = None, **options: Any) -> None:
        with self.router.for_key(key).transaction(**options) as conn:
            conn.execute(sql, params)

    async def query(self, sql: str, params: Params = None, **options: Any) -> list[Any]:
        return self.router.execute(sql, params, **options).rows

    async def result(self, sql: str, params: Params = None, **options: Any) -> Any:
        return self.router.execute(sql, params, **options)

    async def scatter(self, sql: str, params: Params = None, **options: Any) -> Any:
        return self.router.scatter(sql, params, **options)

    async def scatter_function(self, sql: str, **options: Any) -> Any:
        return self.router.scatter(lambda conn: conn.execute(sql).rowcount, **options)

    def _stream(self, sql: str, **options: Any) -> Generator[Any, None, None]:
        return cast("Generator[Any, None, None]", self.router.stream(sql, **options))

    async def stream(self, sql: str, **options: Any) -> list[Any]:
        with closing(self._stream(sql, **options)) as rows:
            return list(rows)

    async def stream_one(self, sql: str, **options: Any) -> Any:
        """The first row of a stream that is left then."""
        with closing(self._stream(sql, **options)) as rows:
            return next(rows)

    async def map(self, sql: str, keys: Iterable[int], **options: Any) -> list[Any]:
        return self.router.map(lambda conn, key: conn.execute(sql).rowcount, keys, key=lambda key: key, **options)

    async def copy_into(self, rows: Iterable[Sequence[Any]], **options: Any) -> dict[str, int]:
        return self.router.copy_into("ledger", rows, columns=["tenant_id", "id"], **options)

    async def token(self, key: int) -> Any:
        return self.router.for_key(key).token()

    async def reload(self, topology: Any = None) -> None:
        self.router.reload(topology)

    async def close(self) -> None:
        self.router.close()


class TaskCalls:
    """The verbs of an `AsyncRouter` on an event loop in a thread; each caller that is spawned is a task."""

    def __init__(self, topology: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.router: AsyncRouter = self.go(self._open(topology, options))

    async def _open(self, topology: Any, options: dict[str, Any]) -> AsyncRouter:
        router = AsyncRouter(topology, **options)
        await router.open()
        return router

    def go(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of these verbs on the loop, and wait for it."""
        return self.spawn(coroutine).result(60)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine of these verbs beside others."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self) -> None:
        self.go(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _stop(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.wait([*others, asyncio.ensure_future(self.router.close(1.0))], timeout=10)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def execute(self, key: int, sql: str, params: Params = None, **options: Any) -> list[Any]:
        return (await self.router.for_key(key).execute(sql, params, **options)).rows

    async def run(self, key: int, sql: str, params: Params = None, **options: Any) -> Any:
        async def function(conn: Any) -> int:
            return int((await conn.execute(sql, params)).rowcount)

        return await self.router.for_key(key).run(function, **options)

    async def connection(self, key: int, sql: str, params: Params = None, **options: Any) -> None:
        async with self.router.for_key(key).connection(**options) as conn:
            await conn.execute(sql, params)

    async def transaction(self, key: int, sql: str, params: Params = None, **options: Any) -> None:
        async with self.router.for_key(key).transaction(**options) as conn:
            await conn.execute(sql, params)

    async def query(self, sql: str, params: Params = None, **options: Any) -> list[Any]:
        return (await self.router.execute(sql, params, **options)).rows

    async def result(self, sql: str, params: Params = None, **options: Any) -> Any:
        return await self.router.execute(sql, params, **options)

    async def scatter(self, sql: str, params: Params = None, **options: Any) -> Any:
        return await self.router.scatter(sql, params, **options)

    async def scatter_function(self, sql: str, **options: Any) -> Any:
        async def function(conn: Any) -> int:
            return int((await conn.execute(sql)).rowcount)

        return await self.router.scatter(function, **options)

    def _stream(self, sql: str, **options: Any) -> AsyncGenerator[Any, None]:
        return cast("AsyncGenerator[Any, None]", self.router.stream(sql, **options))

    async def stream(self, sql: str, **options: Any) -> list[Any]:
        async with aclosing(self._stream(sql, **options)) as rows:
            return [row async for row in rows]

    async def stream_one(self, sql: str, **options: Any) -> Any:
        """The first row of a stream that is left then."""
        async with aclosing(self._stream(sql, **options)) as rows:
            return await anext(rows)

    async def map(self, sql: str, keys: Iterable[int], **options: Any) -> list[Any]:
        async def operation(conn: Any, key: int) -> int:
            return int((await conn.execute(sql)).rowcount)

        return await self.router.map(operation, keys, key=lambda key: key, **options)

    async def copy_into(self, rows: Iterable[Sequence[Any]], **options: Any) -> dict[str, int]:
        return await self.router.copy_into("ledger", rows, columns=["tenant_id", "id"], **options)

    async def token(self, key: int) -> Any:
        return await self.router.for_key(key).token()

    async def reload(self, topology: Any = None) -> None:
        await self.router.reload(topology)

    async def close(self) -> None:
        await self.router.close()


Calls = ThreadCalls | TaskCalls
KINDS: dict[str, type[ThreadCalls] | type[TaskCalls]] = {"sync": ThreadCalls, "async": TaskCalls}
