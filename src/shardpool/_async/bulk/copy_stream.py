"""The COPY of one shard under `copy_into`: its connection in a transaction, its buffer, and what its failures are."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCopy, AsyncCursor, sql
from psycopg.rows import tuple_row

from ..._runtime.deadlines import Deadline, deadline_after
from ..._wire.copy_dumpers import register
from ..._wire.participant import CHECK
from ...errors import DeadlineExceeded
from ..work.checkout import AsyncCheckout, is_busy

# Seconds that a shard may take for one buffer of rows, or for the end of its COPY, before it counts as hung.
STALL = 60.0
# Seconds that a load of several shards waits for a row of others, between these.
_PATIENCE = (3.0, 6.0)
# https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": signature, flags, extension; and the trailer.
_BINARY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_BINARY_TRAILER = b"\xff\xff"


class AsyncStream:
    """The COPY of one shard: its connection in a transaction, watched whenever it is waited for.

    `is_part` when the transaction is the caller's, which was begun before and goes on.
    """

    def __init__(self, shard: str, checkout: AsyncCheckout, until: Deadline, *, is_part: bool = False) -> None:
        self.shard = shard
        self.checkout = checkout
        self.conn: AsyncConnection[Any] = checkout.conn
        self.until = until
        self.is_part = is_part
        self.watch = checkout.watching if is_part else checkout.watch(until, suspects=False)
        self._cursor = self.conn.cursor()
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
        self.watch.deadline = min(self.until, deadline_after(patience))
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
        await self.checkout.begin(autocommit=False)
        patience = sql.SQL("set local lock_timeout = {}").format(round(random.uniform(*_PATIENCE) * 1000))
        await self._cursor.execute(
            sql.SQL("explain insert into {} default values; {}").format(table, patience), prepare=False
        )

    async def begin(self, statement: sql.Composed, oids: Sequence[int] | None, locks: Sequence[str] = ()) -> None:
        """Take the locks and start the COPY; from now on rows may be put into the buffer."""
        self.expect_progress()
        if not self.is_part:
            await self.checkout.begin(autocommit=False)
        for lock in locks:
            await self._cursor.execute(lock)
        if oids is not None:
            register(self._cursor.adapters)
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
        self.watch.deadline = min(self.until, deadline_after(STALL))

    def rest(self) -> None:
        """Nothing is asked of the shard: the caller's rows are waited for, which may take as long as they like."""
        self.watch.deadline = self.until

    def explained(self, error: BaseException) -> BaseException:
        """What a failure of this shard is: the end of its time, where that is why the connection broke."""
        if not self.checkout.pool.health.watchdog.has_cut(self.watch):
            return error
        overdue = DeadlineExceeded(
            f"the deadline passed on shard {self.shard}",
            shard=self.shard,
            endpoint=self.checkout.pool.endpoint.name,
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
        if not self.is_part:
            await self._cursor.execute(CHECK)
        self.rest()
        return count

    async def abort(self, error: BaseException) -> None:
        """Roll back, or leave a part failed; politely for a short time, then by closing the connection."""
        watch = self.checkout.pool.health.watchdog.watch(self.conn, deadline_after(2.0))
        try:
            if self._context is not None:
                await self._context.__aexit__(type(error), error, None)
            if not self.is_part:
                await self.conn.rollback()
        except psycopg.Error:
            # Of a part the end of its COPY is refused: that is what is wanted.
            if not self.is_part or is_busy(self.conn):
                await self.conn.close()
        except BaseException:
            await self.conn.close()
        finally:
            if not self.checkout.pool.health.watchdog.release(watch):
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
