"""A pool of psycopg_pool that loses no connection as it is closed."""

from __future__ import annotations

from typing import Any

from psycopg_pool import AsyncConnectionPool


class AsyncLosslessPool(AsyncConnectionPool[Any]):
    """Closes, too, what is given back to a worker that has ended, or finds its pool closed when its turn comes.

    psycopg_pool gives back so what a caller was handed in the moment in which it gave up. Its own tasks do nothing once
    the pool is closed, and the connection stays open until it is collected.
    """

    def run_task(self, task: Any) -> None:
        if hasattr(task, "from_getconn"):
            task = _GivenBack(self, task)
        super().run_task(task)
        if self.closed:
            self._let_go()

    async def close(self, timeout: float = 5.0) -> None:
        await super().close(timeout)
        self._let_go()

    def _let_go(self) -> None:
        """A worker that still runs has to find what tells it to end."""
        others = []
        while not self._tasks.empty():
            task: Any = self._tasks.get_nowait()
            if isinstance(task, _GivenBack):
                task.conn.pgconn.finish()
            else:
                others.append(task)
        for task in others:
            super().run_task(task)


class _GivenBack:
    """A task of psycopg_pool that gives a connection back."""

    def __init__(self, pool: AsyncLosslessPool, task: Any) -> None:
        self._pool = pool
        self._task = task
        self.conn = task.conn

    async def run(self) -> None:
        if self._pool.closed:
            self.conn.pgconn.finish()
        else:
            await self._task.run()
