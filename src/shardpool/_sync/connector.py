# Generated from _async/connector.py by tools/unasync.py: edit that one, then run `make sync`.
"""Makes the connections of one endpoint's pool: parameters, password, the right server, the user's own settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, cast
from weakref import ref

import psycopg
from psycopg import Connection, Cursor
from psycopg.rows import tuple_row

from .. import config, control
from .._attempt import POOLED, Attempt, GivenUp, Unanswered, bounded
from .._background import within
from .._concurrency import aside, cancel_again
from .._liveness import GIVEN_BACK
from .._meter import Meters
from .._watchdog import Watchdog
from ..errors import OtherMap, ShardUnavailable, first_line
from ..events import Connected, ConnectFailed, NewerEpochSeen, Observers
from ..own_sql import OWN_SESSION
from ..settings import TOLD
from ..topology import Endpoint, Topology
from . import session

# Seconds for which callers are refused at once after a failed attempt: after the first, and at most.
_PAUSE_MIN = 0.05
_PAUSE_MAX = 0.5
# Seconds for making a connection, and again for the first answers on it, where no connect_timeout is given.
_CONNECT_SECONDS = 5
# More than any password, or token in the place of one.
_PASSWORD_FILE_BYTES = 64 * 1024
# The server's own look at whether its client is still there, in milliseconds: what it does for one whose socket was
# shut ends by that. PostgreSQL 14 and newer have it, where the system can tell (Linux, macOS, the BSDs).
_CHECK_INTERVAL = ("client_connection_check_interval", "1000")
# How much the last time to connect counts in the usual one.
_NEWEST = 0.2
_ROLE_QUERY = f"select pg_catalog.pg_is_in_recovery(), {TOLD}"


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """What the caller of the router adds to every connection; see `Router`."""

    connection_class: type[Connection[Any]] = Connection
    configure: Callable[[Connection[Any]], None] | None = None
    # Not shown: there may be a password among them.
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    observers: Observers = field(default_factory=Observers)
    max_held: int = 1000
    meters: Meters = field(default_factory=Meters)
    passwords: Callable[[str, str], str | None] | None = None


class Connector:
    """Stands where psycopg_pool has a connection class: `connect()` gives a checked connection.

    `failures` counts the attempts that failed, `error` is the last one's; both are what a waiting caller is told.
    """

    def __init__(
        self,
        topology: Topology,
        shard: str,
        endpoint: Endpoint,
        options: ConnectOptions,
        watchdog: Watchdog,
    ) -> None:
        self.topology = topology
        self.watchdog = watchdog
        self.shard = shard
        self.endpoint = endpoint
        self.failures = 0
        self.error: Exception | None = None
        self._pause = 0.0
        self._closed_until = 0.0
        self.seen_epoch = 0
        # Seconds that it usually takes to connect; 0 when that is not known yet.
        self.usual_seconds = 0.0
        self.on_failure: Callable[[Exception], None] = _nothing
        self._attempts: set[Attempt] = set()
        # How many of the pools' connections are being made, and those that were.
        self.connecting = 0
        self._made: list[ref[Connection[Any]]] = []
        self._checks_client = endpoint.pooler == "none"
        self._options = options
        self._observe = options.observers.observe

    def connect(self, conninfo: str = "", *, in_worker: bool = False, **kwargs: Any) -> Connection[Any]:
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
            conn = self._connect()
        except GivenUp:
            raise
        except Exception as error:
            self._observe(
                ConnectFailed(
                    shard=self.shard, endpoint=self.endpoint.name, seconds=monotonic() - begun, error=first_line(error)
                )
            )
            self.error = error
            self.failures += 1
            self._pause = min(max(2 * self._pause, _PAUSE_MIN), _PAUSE_MAX)
            # Jittered, so that the processes of a fleet do not all come back at once.
            self._closed_until = monotonic() + self._pause * random.uniform(0.5, 1.0)
            self.on_failure(error)
            raise
        except BaseException:
            if in_worker:
                cancel_again()
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

    def look(self, seconds: float) -> Connection[Any]:
        """A connection of no pool, in autocommit, made and checked within `seconds`: is the server there?"""
        conn = self._connect(seconds)
        conn.set_autocommit(True)
        return conn

    def give_up(self) -> None:
        """End what is under way: connections that are being made to a server that is not well."""
        for attempt in [*self._attempts]:
            attempt.given_up = True

    def adopt(self, topology: Topology) -> None:
        """Go on under a new topology, at once: what failed under the old one may be well."""
        self.topology = topology
        self._closed_until = 0.0

    @property
    def is_pausing(self) -> bool:
        """Whether the last attempt failed so shortly ago that another one would only add to the trouble."""
        return self.error is not None and monotonic() < self._closed_until

    def connect_unchecked(self, deadline: float) -> Connection[Any]:
        """A new connection to whatever server is there, within the deadline (monotonic seconds) as libpq keeps it.

        It is for shardpool's own queries: see `own_sql`.
        """
        kwargs = self._kwargs()
        seconds = max(2, int(deadline - monotonic()))
        kwargs["connect_timeout"] = min(int(kwargs.get("connect_timeout") or seconds), seconds)
        conn = self._options.connection_class.connect("", **kwargs)
        try:
            begin_own(conn, self.endpoint)
        except BaseException:
            conn.close()
            raise
        return conn

    def _connect(self, seconds: float | None = None) -> Connection[Any]:
        begun = monotonic()
        conn = self._let_in(seconds)
        setattr(conn, POOLED, self.endpoint.pooler != "none")
        # libpq's own timeout ends here: a server that froze now would hold the pool's one worker for good.
        until = begun + seconds if seconds is not None else monotonic() + self.connect_seconds
        watch = self.watchdog.watch(conn, until)
        try:
            told = self._check_server(conn)
            if seconds is None:
                session.begin(conn, self.endpoint.reset, self._options.configure, told)
        except BaseException as error:
            cut = not self.watchdog.release(watch)
            conn.close()
            if cut and isinstance(error, Exception):
                raise self._silent(until - begun) from error
            raise
        if not self.watchdog.release(watch):
            conn.close()
            raise self._silent(until - begun)
        taken = monotonic() - begun
        self.usual_seconds += (taken - self.usual_seconds) * (_NEWEST if self.usual_seconds else 1.0)
        return conn

    def _let_in(self, seconds: float | None) -> Connection[Any]:
        kwargs = self._kwargs()
        attempt = Attempt(monotonic() + (self.connect_seconds if seconds is None else seconds))
        self._attempts.add(attempt)
        try:
            with attempt.begun():
                return self._opened(kwargs)
        finally:
            self._attempts.discard(attempt)

    def _opened(self, kwargs: dict[str, Any]) -> Connection[Any]:
        connection_class: Any = bounded(cast(Any, self._options.connection_class))
        if self._checks_client:
            try:
                conn = connection_class.connect("", **_with_setting(kwargs, *_CHECK_INTERVAL))
                return cast("Connection[Any]", conn)
            except psycopg.OperationalError as error:
                if _CHECK_INTERVAL[0] not in str(error):
                    raise
                # The server's system cannot tell: it goes without.
                self._checks_client = False
        return cast("Connection[Any]", connection_class.connect("", **kwargs))

    @property
    def connect_seconds(self) -> float:
        """What making a connection may take: connect_timeout, or a default when it is 0 or not given."""
        given = {**dict(self.endpoint.params), **self._options.kwargs}.get("connect_timeout")
        seconds = float(given or 0)
        return seconds if seconds > 0 else _CONNECT_SECONDS

    def _check_server(self, conn: Connection[Any]) -> str:
        """The right shard, and in the right role; one round trip where the shard has its control schema.

        Gives the settings of the session, as `settings.TOLD` tells them.
        """
        conn.set_autocommit(True)
        cursor = conn.cursor(row_factory=tuple_row)
        if self.topology.control == "required":
            is_standby, told = self._check_identity(cursor)
        else:
            cursor.execute(_ROLE_QUERY, prepare=False)
            is_standby = bool((cursor.fetchone() or (False,))[0])
            told = session.told_in(cursor, 1)
        self._check_role(is_standby)
        conn.set_autocommit(bool(self._options.kwargs.get("autocommit", False)))
        return told

    def _check_role(self, is_standby: bool) -> None:
        if is_standby and self.endpoint.role == "primary":
            raise self._unavailable(
                "its server is a standby",
                "declared as primary, but it is in recovery",
                "Point the shard's primary at the new primary, or name all nodes with hosts: to have it found.",
            )

    def _silent(self, seconds: float) -> ShardUnavailable:
        return self._unavailable(
            "it did not answer in time", f"connected, then silent for {seconds:.3g} s", None, Unanswered
        )

    def _kwargs(self) -> dict[str, Any]:
        """Keyword arguments rather than a DSN: libpq quotes a DSN that it cannot parse, password and all."""
        endpoint = self.endpoint
        kwargs: dict[str, Any] = {"fallback_application_name": "shardpool", **dict(endpoint.params)}
        if endpoint.pooler == "transaction":
            kwargs["prepare_threshold"] = None
        given = self._given_password()
        if given is not None:
            kwargs["password"] = given
        elif endpoint.password_file is not None:
            kwargs["password"] = self._password_from(endpoint.password_file)
        elif endpoint.password is not None:
            kwargs["password"] = endpoint.password.reveal()
        return {**kwargs, **self._options.kwargs}

    def _given_password(self) -> str | None:
        """What the caller's function gives for this connection."""
        if self._options.passwords is None:
            return None
        try:
            asked = partial(self._options.passwords, self.shard, self.endpoint.name)
            return within(asked, self.connect_seconds)
        except Exception as error:
            # Its text is the caller's, and is not told further: it may say what was tried.
            what = f"passwords() raised {type(error).__name__}"
            if isinstance(error, TimeoutError):
                what = f"passwords() gave nothing within {self.connect_seconds:g} s, which is connect_timeout"
            raise self._unavailable("its password cannot be had", what, None) from error

    def _password_from(self, file: str) -> str:
        try:
            data = aside(partial(config.read_file, file, _PASSWORD_FILE_BYTES))
            return data.decode().rstrip("\r\n")
        except OSError as error:
            raise self._unavailable("its password_file cannot be read", f"{file}: {error.strerror}", None) from error
        except UnicodeDecodeError:
            # Not told further: its text shows a byte of the password.
            raise self._unavailable("its password_file cannot be read", f"{file}: it is not UTF-8", None) from None

    def _check_identity(self, cursor: psycopg.Cursor[Any]) -> tuple[bool, str]:
        """Is this the shard that the topology says, with the same hash contract? Gives whether it is a standby, and
        its settings."""
        try:
            cursor.execute(control.IDENTITY_QUERY, prepare=False)
            row = cursor.fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn) as e:
            raise self._unavailable(
                "its server carries no shardpool schema", first_line(e), control.NOT_INSTALLED_HINT
            ) from e
        except psycopg.errors.InsufficientPrivilege as e:
            raise self._unavailable(
                "its shardpool schema cannot be read", first_line(e), "Grant USAGE and SELECT on schema shardpool."
            ) from e
        if control.is_strange(row):
            raise self._unavailable("the server is not that shard", control.STRANGE, control.NOT_INSTALLED_HINT)
        return self._judge(row)

    def _judge(self, row: Any) -> tuple[bool, str]:
        """Whether the server is a standby, and its settings, by the row that it gave of itself."""
        if row is not None:
            self.seen_epoch = max(self.seen_epoch, row[3])
        newer = control.newer_epoch(row, self.topology, self.shard)
        if newer is not None:
            assert row is not None
            keyspaces = control.other_keyspaces(row, self.topology)
            self._observe(
                NewerEpochSeen(shard=self.shard, endpoint=self.endpoint.name, epoch=newer, keyspaces=keyspaces)
            )
            raise self._unavailable(
                "its owners are of a newer epoch",
                f"its owners are of epoch {newer}, and this topology is of epoch {self.topology.epoch}",
                f"Call reload(), with the topology file of epoch {newer}.",
                OtherMap,
            )
        problem = control.check_identity(row, self.topology, self.shard)
        if problem is not None:
            raise self._unavailable("the server is not that shard", problem, None)
        assert row is not None
        other = control.map_problem(row, self.topology)
        if other is not None:
            raise self._unavailable("it has other owners of keys than the topology", *other, OtherMap)
        here = control.Identity._make(row)
        return here.is_standby, here.settings

    def _unavailable(
        self, why: str, detail: str, hint: str | None, error_class: type[ShardUnavailable] = ShardUnavailable
    ) -> ShardUnavailable:
        return error_class(
            f"shard {self.shard} cannot be used: {why}",
            shard=self.shard,
            endpoint=self.endpoint.name,
            phase="connect",
            detail=f"{self.endpoint.address}: {detail}",
            hint=hint,
        )


def begin_own(conn: Connection[Any], endpoint: Endpoint) -> None:
    """Let a session be one of shardpool's own; not behind a pooler of transactions, where others would get it."""
    if endpoint.pooler != "transaction":
        autocommit = conn.autocommit
        conn.set_autocommit(True)
        Cursor(conn).execute(OWN_SESSION, prepare=False)
        conn.set_autocommit(autocommit)


def _with_setting(kwargs: Mapping[str, Any], name: str, value: str) -> dict[str, Any]:
    """The arguments with a setting for the server's session, unless they set it already."""
    options = str(kwargs.get("options") or "")
    if name in options:
        return dict(kwargs)
    return {**kwargs, "options": f"-c {name}={value} {options}".strip()}


def _is_there(made: ref[Connection[Any]]) -> bool:
    return made() is not None


def _nothing(error: Exception) -> None: ...
