# Generated from _async/work/checkout.py by tools/unasync.py: edit that one, then run `make sync`.
"""One use of one connection of a shard: where every unit of work begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ..._endpoint.refusals import Retired
from ..._runtime.deadlines import Deadline
from ..._runtime.watchdog import Watch
from ...control.own_sql import qualified
from ...errors import OtherMap, ResultTooLarge, ShardUnavailable
from ...tokens import Token
from ...topology import RunningMove
from ..fleet import redirects
from ..fleet.pools import EndpointPool
from ..fleet.shards import ShardPools
from .guarding import Buckets, is_admitted, moves_touched

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

_REPLAYED_QUERY = qualified("""
    select pg_catalog.pg_is_in_recovery()
       and (pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn) >= %s::pg_catalog.numeric
""")


class UnitTarget(Protocol):
    """What a unit of work is for; looked up anew for each attempt to begin it."""

    def _current_pools(self) -> ShardPools:
        """The pools of the shard that is meant, in the topology of this moment."""

    def _buckets(self) -> Buckets | None:
        """The buckets whose rows may be touched there; None where that is not known: all that the shard owns."""


class Checkout:
    """One connection for one unit of work: taken, begun, watched if it has to end in time, and given back."""

    __slots__ = ("_buckets", "_target", "_watch", "conn", "pool")

    def __init__(
        self,
        pool: EndpointPool,
        conn: Connection[Any],
        target: UnitTarget | None = None,
    ) -> None:
        self.pool = pool
        self.conn = conn
        self._target = target
        self._buckets: Buckets | None = None
        self._watch: Watch | None = None

    @classmethod
    def of_pool(cls, pool: EndpointPool, deadline: Deadline) -> Checkout:
        """A connection of this endpoint and no other; raises `Retired` after a reload."""
        return cls(pool, pool.take(deadline))

    @classmethod
    def take(
        cls,
        fleet: Fleet,
        target: UnitTarget,
        deadline: Deadline,
        *,
        readonly: bool = False,
        after: Token | None = None,
        chosen: EndpointPool | None = None,
        at_once: bool = False,
    ) -> Checkout:
        """A connection of the right endpoint, of the topology of this moment; of the one that was chosen already.

        Where rows that it is for are handed over to another shard, it is of the one that owns them, which goes on
        owning them until it is given back; with `at_once`, for one statement that only reads, as of now.

        Where nothing could be sent another endpoint is tried: another replica, and the primary, for what only reads;
        the new primary where it is found by asking.
        """
        lsn: int | None = None
        refused: tuple[EndpointPool, ...] = ()
        while True:
            fleet.check_usable()
            snapshot = fleet.snapshot
            try:
                pools = target._current_pools()
            except OtherMap as error:
                if not redirects.is_worth_again(fleet, snapshot, error, deadline):
                    raise
                continue
            moves = moves_touched(snapshot, pools.name, target._buckets()) if snapshot.guarded else ()
            pool: EndpointPool | None = None
            try:
                if moves:
                    # A replica does not know yet who owns the rows.
                    pool = pools.writable(deadline)
                elif chosen is not None:
                    pool, chosen = chosen, None
                elif not readonly:
                    pool = pools.writable(deadline) if pools.leaderless else pools.primary
                elif after is None:
                    pool = pools.readonly(deadline, None, refused)
                else:
                    lsn = after.for_shard(pools.name)
                    pool = pools.replica(deadline, lsn, refused)
                    if pool is None and (asked := pools.replica(deadline, None, refused)) is not None:
                        # It may have got there since it was checked.
                        refused = (*refused, asked)
                        checkout = cls._replayed(asked, deadline, lsn, target)
                        if checkout is not None:
                            return checkout
                    if pool is None:
                        pool = pools.writable(deadline)
                checkout = cls(pool, pool.take(deadline), target)
                # Else it was routed before a reload, and its session says that it works by the new topology.
                if fleet.snapshot is snapshot and (not moves or checkout._is_admitted(fleet, moves, deadline, at_once)):
                    return checkout
                checkout.give()
            except Retired:
                continue
            except ShardUnavailable:
                if pool is not None and readonly and pool is not pools.primary and pool not in refused:
                    refused = (*refused, pool)
                elif (pool is None or not pools.lost_primary(pool)) and not redirects.caught_up(
                    fleet, snapshot, (pools.name,), deadline
                ):
                    raise

    def _is_admitted(self, fleet: Fleet, moves: Sequence[RunningMove], deadline: Deadline, at_once: bool) -> bool:
        try:
            return is_admitted(fleet, self.pool, self.conn, moves, deadline, at_once=at_once)
        except BaseException:
            self.give()
            raise

    @classmethod
    def _replayed(cls, pool: EndpointPool, deadline: Deadline, lsn: int, target: UnitTarget) -> Checkout | None:
        """A connection of a replica when it has replayed all up to there by now."""
        try:
            checkout = cls(pool, pool.take(deadline), target)
        except ShardUnavailable:
            return None
        try:
            has_replayed = checkout._has_replayed(deadline, lsn)
        except BaseException:
            checkout.give()
            raise
        if has_replayed:
            return checkout
        checkout.give()
        return None

    def _has_replayed(self, deadline: Deadline, lsn: int) -> bool:
        self.watch(deadline)
        try:
            self.begin()
            cursor = self.conn.cursor(row_factory=tuple_row)
            cursor.execute(_REPLAYED_QUERY, (lsn,))
            row = cursor.fetchone()
            return bool(row and row[0])
        except psycopg.Error:
            return False
        finally:
            self.unwatch()

    def touches(self, buckets: Buckets) -> None:
        """Only rows of these buckets are meant."""
        self._buckets = buckets

    @property
    def buckets(self) -> Buckets | None:
        """The buckets whose rows the unit of work may touch; None for all that the shard owns."""
        return self._buckets if self._target is None else self._target._buckets()

    def begin(self, *, autocommit: bool = True) -> None:
        """Before the first statement: whether each is a transaction of its own, or psycopg begins one."""
        if self.conn.autocommit is not autocommit:
            self.conn.set_autocommit(autocommit)

    def watch(self, until: Deadline, most: int | None = None, *, suspects: bool = True) -> Watch:
        """Cut the connection at that time (monotonic seconds), or when more than `most` bytes have come.

        What goes on for long is a reason to check the server, unless it does not suspect any harm.
        """
        health = self.pool.health
        self._watch = watch = health.watchdog.watch(self.conn, until, health if suspects else None)
        watch.most = most
        return watch

    @property
    def watching(self) -> Watch:
        """The watch on it."""
        assert self._watch is not None
        return self._watch

    def watch_until(self, until: Deadline) -> None:
        """Cut it at another time than it was to be cut at."""
        if self._watch is not None:
            self._watch.deadline = until

    @property
    def too_large(self) -> ResultTooLarge | None:
        """Why it was cut, when that was for the size of the answer."""
        return None if self._watch is None else self._watch.error

    @property
    def is_cut(self) -> bool:
        """Whether the connection was cut, and is of no use any more."""
        return self._watch is not None and self.pool.health.watchdog.has_cut(self._watch)

    def unwatch(self) -> bool:
        """Watch it no more; whether it was cut, and is closed therefore."""
        cut = self._watch is not None and not self.pool.health.watchdog.release(self._watch)
        if cut:
            self.conn.close()
        return cut

    def end(self) -> bool:
        """Give the connection back; whether it was cut."""
        cut = self._watch is not None and self.unwatch()
        self.pool.give(self.conn)
        return cut

    def give(self) -> None:
        """Give the connection back, which is not watched any more."""
        self.pool.give(self.conn)


def is_idle(conn: Connection[Any]) -> bool:
    """Whether the connection waits for a statement, outside a transaction."""
    return conn.pgconn.transaction_status == TransactionStatus.IDLE


def is_lost(conn: Connection[Any]) -> bool:
    return conn.pgconn.transaction_status == TransactionStatus.UNKNOWN


def is_busy(conn: Connection[Any]) -> bool:
    """Whether the connection is in the middle of an answer."""
    return conn.pgconn.transaction_status == TransactionStatus.ACTIVE
