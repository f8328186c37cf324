"""The participants of a call on several shards: a connection of each, or of none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial as bind_arguments
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import AsyncConnection

from ..._endpoint.refusals import Retired
from ..._endpoint.session import SESSION
from ..._runtime.deadlines import Deadline, halfway
from ..._runtime.drivers import async_drive
from ..._runtime.intake import INTAKE, Intake
from ..._runtime.slots import Place
from ..._runtime.tasks import async_run_all, async_sleep
from ..._wire.request import Repetition, Request
from ..._wire.statement import Statement
from ...errors import ScatterError, ShardError, ShardUnavailable
from ...succession import placements_differ
from ...topology import Topology
from ..fleet import redirects
from ..fleet.giving import give_all
from ..fleet.pools import AsyncEndpointPool
from .checkout import AsyncCheckout, is_busy
from .guarding import Buckets, is_admitted, moves_touched
from .outcomes import Missing, explained, is_absence, is_lost_connection, nothing_begun, overdue, several

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from ..fleet.snapshot import AsyncSnapshot

_NOTHING = Statement(b"select", None)


class Moved(Exception):
    """Keys are elsewhere by now than where the call was routed: a reload came between. Nothing was sent; plan again."""


class Source(Protocol):
    """A transaction of the caller's: where a statement in it gets its participants from."""

    async def join(self, names: Sequence[str], deadline: Deadline, topology: Topology | None) -> AsyncParticipants:
        """These shards, with the transaction open on each; raises `Moved` as `take` does."""


class AsyncParticipants:
    """A checkout on each of several shards, by their names, in the order of the topology."""

    def __init__(self, fleet: AsyncFleet, checkouts: dict[str, AsyncCheckout]) -> None:
        self._fleet = fleet
        self.checkouts = checkouts

    @classmethod
    async def take(
        cls,
        fleet: AsyncFleet,
        names: Sequence[str],
        deadline: Deadline,
        *,
        readonly: bool,
        topology: Topology | None = None,
        missing: Missing | None = None,
        buckets_by_shard: Mapping[str, Buckets] | None = None,
        reads: bool = False,
        within: Source | None = None,
    ) -> AsyncParticipants:
        """A connection of each shard, or none; outside of transactions.

        The places in the pools are taken one after another in the order of the topology, so that two scatters never
        hold what the other waits for; connections that must be made first are then made side by side. With `missing`,
        shards that give none are written there instead, as long as one gives one.

        `topology` is what the call was routed by: raises `Moved` unless it still says where every key is, so that the
        shards that are asked own every bucket at one epoch. `buckets_by_shard` are those that it may touch; None for
        all that the shards own. Where rows are handed over, the shards that own them go on owning them until the end of
        the call; with `reads`, for one statement on each shard that only reads, they own them as of now.
        `within` is the transaction that they are to be of, if there is one.
        """
        if within is not None:
            return await within.join(names, deadline, topology)
        refused: set[AsyncEndpointPool] = set()
        fleet.retries.earn()
        while True:
            fleet.check_usable()
            snapshot = fleet.snapshot
            if topology is not None and has_moved(snapshot.topology, topology):
                raise Moved
            for name in names:
                snapshot.topology.shard(name)
            pools: dict[str, AsyncEndpointPool] = {}
            absent: Missing = {}
            try:
                until = _patience(deadline, missing)
                for name in names:
                    try:
                        from_replica = readonly and name not in snapshot.guarded
                        pools[name] = await _endpoint(snapshot, name, until, from_replica, refused)
                    except ShardError as error:
                        if missing is None or not is_absence(error):
                            raise
                        absent[name] = error
                checkouts = await _take_each(pools, _patience(deadline, missing), absent, partial=missing is not None)
            except Retired:
                if monotonic() >= deadline:
                    raise nothing_begun(_retired(pools)) from None
                await async_sleep(0)
            except ScatterError as error:
                # Nothing was sent: other replicas may do, and where primaries are found by asking, others may come.
                if not _may_change(snapshot, pools, error.failures, refused) and not (
                    all(isinstance(failure, ShardUnavailable) for failure in error.failures.values())
                    and await redirects.caught_up(fleet, snapshot, error.failures, deadline)
                ):
                    raise
            else:
                participants = cls(fleet, checkouts)
                for name, buckets in (buckets_by_shard or {}).items():
                    if name in checkouts:
                        checkouts[name].touches(buckets)
                if fleet.snapshot is not snapshot or (
                    missing is not None and _has_others(snapshot, pools, absent, refused)
                ):
                    await participants.end()
                    continue
                try:
                    if topology is not None:
                        await participants.check_alike(topology)
                    if snapshot.guarded and not await participants._are_admitted(snapshot, deadline, reads):
                        if topology is not None:
                            raise Moved
                        await participants.end()
                        continue
                    await participants._begin()
                except BaseException:
                    await participants.end()
                    raise
                if missing is not None:
                    missing.update(absent)
                return participants

    async def _are_admitted(self, snapshot: AsyncSnapshot, deadline: Deadline, reads: bool) -> bool:
        """Whether the shards own the rows that are handed over just now, as the call was routed."""
        for name, checkout in self.checkouts.items():
            moves = moves_touched(snapshot, name, checkout.buckets)
            if moves and not await is_admitted(
                self._fleet, checkout.pool, checkout.conn, moves, deadline, at_once=reads
            ):
                return False
        return True

    async def check_alike(self, topology: Topology) -> None:
        """Raise `Moved` when keys are elsewhere by now, `UnsupportedQuery` unless all sessions read and write alike.

        Settings may have been changed since a connection was made: of those that differ new ones are made first.
        """
        if has_moved(self._fleet.topology, topology):
            raise Moved
        settings = {name: checkout.conn.__dict__[SESSION].settings for name, checkout in self.checkouts.items()}
        if not self._fleet.schema.check_settings(settings):
            for checkout in self.checkouts.values():
                await checkout.pool.drain()
            raise Moved

    async def _begin(self) -> None:
        """Begin on each; what comes on the connections counts together."""
        most = self._fleet.limits.max_result_bytes
        intake = None if most is None else Intake(most)
        for checkout in self.checkouts.values():
            checkout.conn.__dict__[INTAKE] = intake
            await checkout.begin()

    def __len__(self) -> int:
        return len(self.checkouts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.checkouts)

    def conn(self, name: str) -> AsyncConnection[Any]:
        return self.checkouts[name].conn

    @property
    def pools(self) -> dict[str, AsyncEndpointPool]:
        return {name: checkout.pool for name, checkout in self.checkouts.items()}

    @property
    def conns(self) -> dict[str, AsyncConnection[Any]]:
        """The connections by the names of their shards."""
        return {name: checkout.conn for name, checkout in self.checkouts.items()}

    def request(self, name: str, statement: Statement, *, reads: bool = False, again: bool = False) -> Request:
        """A statement for one of them; `again` in a transaction that may only read."""
        checkout = self.checkouts[name]
        return (Repetition if again else Request)(
            name, checkout.conn, statement, overdue(name, checkout.pool, reads=reads)
        )

    def failures(self, requests: Sequence[Request], *, may_be_applied: bool) -> dict[str, BaseException]:
        """The errors of the requests that failed, by shard, as what they mean."""
        return {
            request.shard: explained(request, self.checkouts[request.shard].pool, may_be_applied)
            for request in requests
            if request.error is not None
        }

    def is_repeated(self, query: Any, failures: Mapping[str, BaseException]) -> bool:
        """Whether a statement is run once more on all its shards, as one on one shard is; if so that is counted.

        Connections were lost, and that is all that went wrong; it only reads; and not too many calls are repeated.
        """
        if not failures or not all(map(is_lost_connection, failures.values())) or self._fleet.schema.may_write(query):
            return False
        if not self._fleet.retries.spend():
            return False
        for name, error in failures.items():
            self.checkouts[name].pool.health.retried(error)
        return True

    async def silent(self, until: Deadline) -> Missing:
        """The shards that do not answer at all by then, and what that means; raised when it is every one of them.

        Rows that are brought together are of all shards or of none: it has to be known before who can give theirs.
        """
        requests = [self.request(name, _NOTHING, reads=True) for name in self]
        await async_drive(((request.pgconn.socket, request.step()) for request in requests), until)
        failures = self.failures(requests, may_be_applied=False)
        for request in requests:
            if not request.reusable:
                await request.conn.close()
        if len(failures) == len(self):
            raise several(failures, len(self))
        return failures

    async def close_busy(self) -> None:
        """Close connections in the middle of an answer: their sockets would give the rest to the next caller."""
        for checkout in self.checkouts.values():
            if is_busy(checkout.conn):
                await checkout.conn.close()

    async def end(self, make_ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """Give all connections back, after `make_ready` has been called where one of them is not ready for others."""
        await give_all([(checkout.pool, checkout.conn) for checkout in self.checkouts.values()], make_ready)


def has_moved(now: Topology, then: Topology) -> bool:
    """Whether what was routed by the one topology may be elsewhere by the other."""
    return now is not then and placements_differ(now, then)


def _patience(deadline: Deadline, missing: Missing | None) -> Deadline:
    """Until when a shard is waited for: those that answer need time, too, when others may be missing."""
    return deadline if missing is None else halfway(deadline)


def _may_change(
    snapshot: AsyncSnapshot,
    pools: dict[str, AsyncEndpointPool],
    failures: Mapping[str, BaseException],
    refused: set[AsyncEndpointPool],
) -> bool:
    """Whether another endpoint may be found for each of the shards that gave no connection."""
    if not all(isinstance(error, ShardUnavailable) and name in pools for name, error in failures.items()):
        return False
    changed = _has_others(snapshot, pools, failures, refused)
    for name in failures:
        shard = snapshot.shards[name]
        if pools[name] is shard.primary:
            if not shard.lost_primary(pools[name]):
                return False
            changed = True
    return changed


def _has_others(
    snapshot: AsyncSnapshot,
    pools: dict[str, AsyncEndpointPool],
    failures: Mapping[str, BaseException],
    refused: set[AsyncEndpointPool],
) -> bool:
    """Whether a replica has refused for the first time: it is left out from now on, and there are others."""
    new = {
        pools[name]
        for name, error in failures.items()
        if isinstance(error, ShardUnavailable) and name in pools and pools[name] is not snapshot.shards[name].primary
    } - refused
    refused |= new
    return bool(new)


def _retired(pools: dict[str, AsyncEndpointPool]) -> dict[str, BaseException]:
    return {name: pool.overdue("its pool is closed") for name, pool in pools.items() if pool.retired}


async def _endpoint(
    snapshot: AsyncSnapshot, name: str, deadline: Deadline, readonly: bool, refused: set[AsyncEndpointPool]
) -> AsyncEndpointPool:
    shard = snapshot.shards[name]
    return await shard.readonly(deadline, None, refused) if readonly else await shard.writable(deadline)


async def _take_each(
    pools: dict[str, AsyncEndpointPool], until: Deadline, absent: Missing, *, partial: bool
) -> dict[str, AsyncCheckout]:
    """A connection of each pool; with `partial`, of those that give one, and `absent` has the others' errors."""
    places: dict[str, Place] = {}
    failures = absent
    conns: dict[str, AsyncConnection[Any]] = {}
    begun = monotonic()
    is_over = False

    async def connect(name: str) -> None:
        # Written down at once: when the caller is interrupted, what the others have got has to be given back.
        try:
            conns[name] = await pools[name].connect(places[name], begun, until)
        except Exception as error:
            failures[name] = error
        if is_over and (conn := conns.pop(name, None)) is not None:
            # It was interrupted twice, and has not waited for this one.
            await pools[name].give(conn)

    try:
        for name, pool in pools.items():
            try:
                places[name] = await pool.reserve_for_scatter(until)
            except Retired:
                raise
            except Exception as error:
                failures[name] = error
                if not partial:
                    raise nothing_begun({name: error}) from error
        if all(pools[name].is_warm for name in places):
            for name in places:
                await connect(name)
        else:
            await async_run_all([bind_arguments(connect, name) for name in places])
        _judge(failures, partial, bool(conns))
    except BaseException:
        is_over = True
        for name, place in places.items():
            if name not in conns:
                place.free()
        await give_all([(pools[name], conn) for name in pools if (conn := conns.pop(name, None)) is not None])
        raise
    return {name: AsyncCheckout(pools[name], conns[name]) for name in pools if name in conns}


def _judge(failures: dict[str, BaseException], partial: bool, any_taken: bool) -> None:
    """Raise what the failures mean, unless they may be missing."""
    if not failures:
        return
    for error in failures.values():
        if isinstance(error, Retired):
            raise error
    if not partial or not any_taken or not all(map(is_absence, failures.values())):
        raise nothing_begun(failures)
