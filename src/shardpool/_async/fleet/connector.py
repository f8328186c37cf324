"""Makes the connections of one endpoint's pool: parameters, password, the right server, the user's own settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, cast
from weakref import ref

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import tuple_row

from ..._endpoint import refusals
from ..._endpoint.attempt import POOLED, Attempt, GivenUp, Unanswered, bounded
from ..._endpoint.breaker import is_timeout
from ..._endpoint.liveness import GIVEN_BACK
from ..._endpoint.session import SESSION
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.interrupts import async_cancel_again
from ..._runtime.watchdog import AsyncWatchdog
from ...control import guard
from ...control.identity import (
    IDENTITY_QUERY,
    NOT_INSTALLED_HINT,
    STRANGE,
    Identity,
    check_identity,
    is_strange,
    map_problem,
    newer_epoch,
    other_keyspaces,
)
from ...control.own_sql import OWN_EPOCH, OWN_SESSION
from ...control.settings import SETTINGS
from ...errors import OtherMap, ShardUnavailable, first_line
from ...events import Connected, ConnectFailed, NewerEpochSeen
from ...topology import Endpoint, Topology
from . import sessions as session
from .options import AsyncConnectOptions, connect_seconds, parameters

# Seconds for which callers are refused at once after a failed attempt: after the first, and at most.
_PAUSE_MIN = 0.05
_PAUSE_MAX = 0.5
# The server's own look at whether its client is still there, in milliseconds: what it does for one whose socket was
# shut ends by that. PostgreSQL 14 and newer have it, where the system can tell (Linux, macOS, the BSDs).
_CHECK_INTERVAL = ("client_connection_check_interval", "1000")
# How much the last time to connect counts in the usual one.
_NEWEST = 0.2
_ROLE_QUERY = f"select pg_catalog.pg_is_in_recovery(), {SETTINGS}"


class AsyncConnector:
    """Stands where psycopg_pool has a connection class: `connect()` gives a checked connection.

    `failures` counts the attempts that failed, `error` is the last one's, of `failed_at` (monotonic seconds).
    """

    def __init__(
        self,
        topology: Topology,
        shard: str,
        endpoint: Endpoint,
        options: AsyncConnectOptions,
        watchdog: AsyncWatchdog,
    ) -> None:
        self.topology = topology
        self.watchdog = watchdog
        self.shard = shard
        self.endpoint = endpoint
        self.failures = 0
        self.error: Exception | None = None
        self.failed_at = 0.0
        self._pause = 0.0
        self._closed_until = 0.0
        self.seen_epoch = 0
        # Whether the server takes part in transactions over several shards, as it has told last: see `transactions`.
        self.takes_part = ""
        # Seconds that it usually takes to connect; 0 when that is not known yet.
        self.usual_seconds = 0.0
        self.on_failure: Callable[[Exception], None] = _nothing
        self._attempts: set[Attempt] = set()
        # How many of the pools' connections are being made, and those that were.
        self.connecting = 0
        self._made: list[ref[AsyncConnection[Any]]] = []
        self._checks_client = endpoint.pooler == "none"
        self.epoch: int | None = None
        self.work_by(topology)
        self._options = options
        self._observe = options.observers.observe

    async def connect(self, conninfo: str = "", *, in_worker: bool = False, **kwargs: Any) -> AsyncConnection[Any]:
        """A new connection to the right server, configured; raises `psycopg.Error` or `ShardUnavailable`.

        A pool's worker is cancelled as its loop ends, and would take that for an attempt that has failed: it would go
        on, and the loop wait for it for good.
        """
        if self.is_pausing:
            # Queued while the last attempt ran. Made all the same, it would hold up those who come when all is well.
            raise psycopg.OperationalError("not tried: the attempt before it has failed just now")
        begun = monotonic()
        self.connecting += 1
        try:
            conn = await self._connect()
        except GivenUp:
            raise
        except Exception as error:
            self._observe(
                ConnectFailed(
                    shard=self.shard, endpoint=self.endpoint.name, seconds=monotonic() - begun, error=first_line(error)
                )
            )
            self.error, self.failed_at = error, monotonic()
            self.failures += 1
            self._pause = min(max(2 * self._pause, _PAUSE_MIN), _PAUSE_MAX)
            # Jittered, so that the processes of a fleet do not all come back at once.
            self._closed_until = self.failed_at + self._pause * random.uniform(0.5, 1.0)
            self.on_failure(error)
            raise
        except BaseException:
            if in_worker:
                async_cancel_again()
            raise
        finally:
            self.connecting -= 1
        now = monotonic()
        # It may lie in the pool for long before anybody uses it.
        setattr(conn, GIVEN_BACK, now)
        self._made = [*filter(_is_there, self._made), ref(conn)]
        self._observe(Connected(shard=self.shard, endpoint=self.endpoint.name, seconds=now - begun))
        self.is_well()
        return conn

    def made(self) -> Iterator[Any]:
        """The connections of pools that somebody still refers to."""
        return (conn for made in self._made if (conn := made()) is not None)

    def is_well(self) -> None:
        """Forget what failed."""
        self.error = None
        self._pause = 0.0

    async def connect_apart(self, seconds: float) -> AsyncConnection[Any]:
        """A connection of no pool, in autocommit, made and checked within `seconds`: is the server there?"""
        conn = await self._connect(seconds)
        await conn.set_autocommit(True)
        return conn

    def give_up(self) -> None:
        """End what is under way: connections that are being made to a server that is not well."""
        for attempt in [*self._attempts]:
            attempt.given_up = True

    def adopt(self, topology: Topology) -> None:
        """Go on under a new topology, at once: what failed under the old one may be well."""
        self.topology = topology
        self._closed_until = 0.0

    def work_by(self, topology: Topology) -> None:
        """What new sessions tell the server: none behind a pooler of transactions, where they are not their own."""
        declares = topology.control == "required" and self.endpoint.pooler != "transaction"
        self.epoch = topology.epoch if declares else None

    @property
    def is_pausing(self) -> bool:
        """Whether the last attempt failed so shortly ago that another one would only add to the trouble."""
        return self.error is not None and monotonic() < self._closed_until

    @property
    def second_try_in(self) -> float | None:
        """Seconds until callers may have it tried once more, after a first failure; None when that is not worth it."""
        if self.error is None or self._pause > _PAUSE_MIN or is_timeout(self.error):
            return None
        return max(self._closed_until - monotonic(), 0.0)

    async def connect_unchecked(self, deadline: Deadline) -> AsyncConnection[Any]:
        """A new connection in autocommit to whatever server is there, by the deadline (monotonic seconds).

        It is for shardpool's own queries: see `own_sql`. Raises `psycopg.Error`, `ShardUnavailable`.
        """
        kwargs = await self.parameters()
        with Attempt(deadline).begun():
            connection_class: Any = bounded(cast(Any, self._options.connection_class))
            conn = cast("AsyncConnection[Any]", await connection_class.connect("", **kwargs))
        watch = self.watchdog.watch(conn, deadline)
        try:
            await self._configure_own(conn)
            await begin_own(conn, self.endpoint)
            await conn.set_autocommit(True)
        except BaseException:
            self.watchdog.release(watch)
            await conn.close()
            raise
        self.watchdog.release(watch)
        return conn

    async def _configure_own(self, conn: AsyncConnection[Any]) -> None:
        """Let the user configure a connection for shardpool's own queries: the role that it sets is kept.

        Its settings are not: a limit that is meant for callers, say, is none of a statement that reads a whole table.
        """
        if self._options.configure is None:
            return
        try:
            await self._options.configure(conn)
            await conn.set_autocommit(True)
        except psycopg.Error:
            raise
        except Exception as error:
            # Its text is the caller's, and is not told further.
            what = f"configure() raised {type(error).__name__}"
            raise self._unavailable("its connection cannot be configured", what, None) from error
        if self.endpoint.pooler != "transaction":
            await AsyncCursor(conn).execute("RESET ALL", prepare=False)

    async def _connect(self, seconds: float | None = None) -> AsyncConnection[Any]:
        begun = monotonic()
        conn = await self._let_in(seconds)
        setattr(conn, POOLED, self.endpoint.pooler != "none")
        # libpq's own timeout ends here: a server that froze now would hold the pool's one worker for good.
        until = Deadline(begun + seconds) if seconds is not None else deadline_after(self.connect_seconds)
        watch = self.watchdog.watch(conn, until)
        try:
            settings, epoch = await self._check_server(
                conn, OWN_EPOCH if self.epoch and seconds is not None else self.epoch
            )
            if seconds is None:
                await session.begin(conn, self.endpoint.reset, self._options.configure, settings)
                conn.__dict__[SESSION].epoch = epoch
        except BaseException as error:
            cut = not self.watchdog.release(watch)
            await conn.close()
            if cut and isinstance(error, Exception):
                raise self._silent(until - begun) from error
            raise
        if not self.watchdog.release(watch):
            await conn.close()
            raise self._silent(until - begun)
        taken = monotonic() - begun
        self.usual_seconds += (taken - self.usual_seconds) * (_NEWEST if self.usual_seconds else 1.0)
        return conn

    async def _let_in(self, seconds: float | None) -> AsyncConnection[Any]:
        kwargs = await self.parameters()
        attempt = Attempt(deadline_after(self.connect_seconds if seconds is None else seconds))
        self._attempts.add(attempt)
        try:
            with attempt.begun():
                return await self._opened(kwargs)
        finally:
            self._attempts.discard(attempt)

    async def _opened(self, kwargs: dict[str, Any]) -> AsyncConnection[Any]:
        connection_class: Any = bounded(cast(Any, self._options.connection_class))
        if self._checks_client:
            try:
                conn = await connection_class.connect("", **_with_setting(kwargs, *_CHECK_INTERVAL))
                return cast("AsyncConnection[Any]", conn)
            except psycopg.OperationalError as error:
                if _CHECK_INTERVAL[0] not in str(error):
                    raise
                # The server's system cannot tell: it goes without.
                self._checks_client = False
        return cast("AsyncConnection[Any]", await connection_class.connect("", **kwargs))

    @property
    def connect_seconds(self) -> float:
        """What making a connection may take."""
        return connect_seconds(self.endpoint, self._options)

    async def _check_server(self, conn: AsyncConnection[Any], epoch: int | None) -> tuple[str, int | None]:
        """The right shard, and in the right role; one round trip where the shard has its control schema.

        The session is told to work by that epoch. Gives its settings, as `settings.SETTINGS` tells them, and its epoch.
        """
        await conn.set_autocommit(True)
        cursor = conn.cursor(row_factory=tuple_row)
        if self.topology.control == "required":
            epoch = await self._ask_identity(cursor, epoch)
            is_standby, settings = self._judge(await cursor.fetchone())
        else:
            await cursor.execute(_ROLE_QUERY, prepare=False)
            is_standby = bool((await cursor.fetchone() or (False,))[0])
            settings = session.settings_in(cursor, 1)
        self._check_role(is_standby)
        await conn.set_autocommit(bool(self._options.kwargs.get("autocommit", False)))
        return settings, epoch

    def _check_role(self, is_standby: bool) -> None:
        if is_standby and self.endpoint.is_written:
            raise self._unavailable(
                "its server is a standby",
                "declared as primary, but it is in recovery",
                "Point the shard's primary at the new primary, or name all nodes with hosts: to have it found.",
            )

    def _silent(self, seconds: float) -> ShardUnavailable:
        return self._unavailable(
            "it did not answer in time", f"connected, then silent for {seconds:.3g} s", None, Unanswered
        )

    async def parameters(self) -> dict[str, Any]:
        """What a connection is made with."""
        return await parameters(self.shard, self.endpoint, self._options)

    async def _ask_identity(self, cursor: psycopg.AsyncCursor[Any], epoch: int | None) -> int | None:
        """Have the server say who it is, after it was told the epoch that the session works by, which is given.

        First that, and in a transaction of its own: who looks which sessions there are has said before which epochs are
        still good, and one of the two sees the other.
        """
        try:
            if epoch is not None:
                try:
                    await cursor.execute(f"begin; {guard.DECLARE % epoch}; commit; {IDENTITY_QUERY}", prepare=False)
                    while cursor.nextset():
                        pass
                    return epoch
                except psycopg.errors.UndefinedFunction:
                    # The schema of an older version.
                    await cursor.connection.rollback()
            await cursor.execute(IDENTITY_QUERY, prepare=False)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn) as e:
            raise self._unavailable("its server carries no shardpool schema", first_line(e), NOT_INSTALLED_HINT) from e
        except psycopg.errors.InsufficientPrivilege as e:
            raise self._unavailable(
                "its shardpool schema cannot be read", first_line(e), "Grant USAGE and SELECT on schema shardpool."
            ) from e
        return None

    def _judge(self, row: Any) -> tuple[bool, str]:
        """Whether the server is a standby, and its settings, by the row that it gave of itself."""
        if is_strange(row):
            raise self._unavailable("the server is not that shard", STRANGE, NOT_INSTALLED_HINT)
        if row is not None:
            self.seen_epoch = max(self.seen_epoch, row[3])
        newer = newer_epoch(row, self.topology, self.shard)
        if newer is not None:
            assert row is not None
            keyspaces = other_keyspaces(row, self.topology)
            self._observe(
                NewerEpochSeen(shard=self.shard, endpoint=self.endpoint.name, epoch=newer, keyspaces=keyspaces)
            )
            raise self._unavailable(
                "its owners are of a newer epoch",
                f"its owners are of epoch {newer}, and this topology is of epoch {self.topology.epoch}",
                f"Call reload(), with the topology file of epoch {newer}.",
                OtherMap,
            )
        problem = check_identity(row, self.topology, self.shard)
        if problem is not None:
            raise self._unavailable("the server is not that shard", problem, None)
        assert row is not None
        other = map_problem(row, self.topology)
        if other is not None:
            what = "owners of keys" if other_keyspaces(row, self.topology) else "placements of tables"
            why = f"it has other {what} than the topology"
            raise self._unavailable(why, *other, OtherMap)
        here = Identity._make(row)
        self.takes_part = here.takes_part
        return here.is_standby, here.settings

    def _unavailable(
        self, why: str, detail: str, hint: str | None, error_class: type[ShardUnavailable] = ShardUnavailable
    ) -> ShardUnavailable:
        return refusals.unusable(self.shard, self.endpoint, why, detail, hint, error_class)


async def begin_own(conn: AsyncConnection[Any], endpoint: Endpoint) -> None:
    """Let a session be one of shardpool's own; not behind a pooler of transactions, where others would get it."""
    if endpoint.pooler != "transaction":
        autocommit = conn.autocommit
        await conn.set_autocommit(True)
        await AsyncCursor(conn).execute(OWN_SESSION, prepare=False)
        await conn.set_autocommit(autocommit)


def _with_setting(kwargs: Mapping[str, Any], name: str, value: str) -> dict[str, Any]:
    """The arguments with a setting for the server's session, unless they set it already."""
    options = str(kwargs.get("options") or "")
    if name in options:
        return dict(kwargs)
    return {**kwargs, "options": f"-c {name}={value} {options}".strip()}


def _is_there(made: ref[AsyncConnection[Any]]) -> bool:
    return made() is not None


def _nothing(error: Exception) -> None: ...
