"""The COPY of one shard under `copy_into`: its connection in a transaction, its buffer, and what its failures are."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from time import monotonic
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCopy, AsyncCursor, sql
from psycopg.rows import tuple_row

from .._participant import CHECK
from .._watchdog import Watch
from ..errors import DeadlineExceeded
from .pools import AsyncEndpointPool

# Seconds that a shard may take for one buffer of rows, or for the end of its COPY, before it counts as hung.
STALL = 60.0
# Seconds that a load of several shards waits for a row of others, between these.
_PATIENCE = (3.0, 6.0)
# https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": signature, flags, extension; and the trailer.
_BINARY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_BINARY_TRAILER = b"\xff\xff"


class AsyncStream:
    """The COPY of one shard: its connection in a transaction, watched whenever it is waited for."""

    def __init__(self, shard: str, pool: AsyncEndpointPool, conn: AsyncConnection[Any], until: float) -> None:
        self.shard = shard
        self.pool = pool
        self.conn = conn
        self.until = until
        self.watch: Watch = pool.watchdog.watch(conn, until)
        self._cursor = conn.cursor()
        self._context: Any = None
        self._copy: AsyncCopy
        self._is_binary = False
        self.buffer = bytearray()
        self.transformer: Any

    async def ask(self, query: LiteralString, params: Sequence[Any], patience: float) -> Any:
        """The row that a look at the catalog gives, for which the shard has `patience` seconds."""
        cursor = await self._asked(query, params, patience, binary=False)
        return await cursor.fetchone()

    async def values(self, expressions: Sequence[str], patience: float, *, binary: bool) -> tuple[Any, ...]:
        """What the shard makes of these: bytes for binary COPY, else texts."""
        if not expressions:
            return ()
        query = f"select {', '.join(expressions)}".encode(self.conn.info.encoding)
        cursor = await self._asked(query, None, patience, binary=binary)
        result = cursor.pgresult
        assert result is not None
        found = [result.get_value(0, number) for number in range(result.nfields)]
        return tuple(value if value is None or binary else value.decode(self.conn.info.encoding) for value in found)

    async def _asked(
        self, query: LiteralString | bytes, params: Sequence[Any] | None, patience: float, *, binary: bool
    ) -> AsyncCursor[Any]:
        self.watch.deadline = min(self.until, monotonic() + patience)
        try:
            cursor = self.conn.cursor(row_factory=tuple_row, binary=binary)
            await cursor.execute(query, params)
        except psycopg.Error as error:
            raise ShardFailed(self.shard, self.explained(error)) from error
        self.rest()
        return cursor

    async def give_way(self, table: sql.Composable) -> None:
        """From now on wait for no row for long: this load may hold on another shard what is waited for here.

        The lock of the table, which EXPLAIN takes as well, may take longer. The times differ, so that one gives way.
        """
        self.expect_progress()
        if self.conn.autocommit:
            await self.conn.set_autocommit(False)
        patience = sql.SQL("set local lock_timeout = {}").format(round(random.uniform(*_PATIENCE) * 1000))
        await self._cursor.execute(
            sql.SQL("explain insert into {} default values; {}").format(table, patience), prepare=False
        )

    async def begin(self, statement: sql.Composed, oids: Sequence[int] | None, locks: Sequence[str] = ()) -> None:
        """Take the locks and start the COPY; from now on rows may be put into the buffer."""
        self.expect_progress()
        if self.conn.autocommit:
            await self.conn.set_autocommit(False)
        for lock in locks:
            await self._cursor.execute(lock)
        self._context = self._cursor.copy(statement)
        copy: AsyncCopy = await self._context.__aenter__()
        if oids is not None:
            copy.set_types(list(oids))
        self.transformer = copy.formatter.transformer
        self._copy = copy
        self._is_binary = oids is not None
        if self._is_binary:
            self.buffer += _BINARY_HEADER
        self.rest()

    async def flush(self) -> None:
        """Send the rows of the buffer, during which the shard is expected to make progress."""
        self.expect_progress()
        try:
            await self._copy.write(bytes(self.buffer))
        except psycopg.Error as error:
            raise ShardFailed(self.shard, self.explained(error)) from error
        self.buffer.clear()
        self.rest()

    def expect_progress(self) -> None:
        self.watch.deadline = min(self.until, monotonic() + STALL)

    def rest(self) -> None:
        """Nothing is asked of the shard: the caller's rows are waited for, which may take as long as they like."""
        self.watch.deadline = self.until

    def explained(self, error: BaseException) -> BaseException:
        """What a failure of this shard is: the end of its time, where that is why the connection broke."""
        if not self.pool.watchdog.has_cut(self.watch):
            return error
        overdue = DeadlineExceeded(
            f"the deadline passed on shard {self.shard}",
            shard=self.shard,
            endpoint=self.pool.endpoint.name,
            phase="copy",
            detail=f"no progress for {STALL:g} s, or the time of the whole load was over.",
        )
        overdue.__cause__ = error
        return overdue

    async def finish(self) -> int:
        """End the COPY: every row has been taken and every constraint holds, also those that wait for COMMIT."""
        if self._is_binary:
            self.buffer += _BINARY_TRAILER
        await self.flush()
        self.expect_progress()
        await self._context.__aexit__(None, None, None)
        count = self._cursor.rowcount
        await self._cursor.execute(CHECK)
        self.rest()
        return count

    async def commit(self) -> None:
        self.expect_progress()
        await self.conn.commit()

    async def abort(self, error: BaseException) -> None:
        """Roll back, politely for a short time, then by closing the connection, which has the same effect."""
        watch = self.pool.watchdog.watch(self.conn, monotonic() + 2.0)
        try:
            if self._context is not None:
                await self._context.__aexit__(type(error), error, None)
            await self.conn.rollback()
        except BaseException:
            await self.conn.close()
        finally:
            if not self.pool.watchdog.release(watch):
                await self.conn.close()


class ShardFailed(Exception):
    """The shard, not the row, is what failed while a row was written."""

    def __init__(self, shard: str, error: BaseException) -> None:
        super().__init__(shard)
        self.failures = {shard: error}


def copy_line(error: BaseException) -> int | None:
    """The line of the COPY that the server complains of: the number of the row among those of its shard."""
    context = error.diag.context if isinstance(error, psycopg.Error) else None
    found = re.search(r"COPY .*?, line (\d+)", context or "")
    return int(found[1]) if found else None
