"""How moves are getting on, as their shards tell; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..control.locks import LOCK_CLASS, MOVER_LOCK_GROUP
from ..errors import summary
from ..operations.barrier import Straggler, router_roles, stale_sessions
from ..operations.connections import Conn, Connections, connected, one
from ..topology import RunningMove, Topology
from . import replication
from .handover import token_owner
from .record import Record, records

_MAKING = """
    select exists (select from pg_catalog.pg_locks where locktype = 'advisory' and classid = %s and granted
      and objid::bigint = %s and database = (select oid from pg_catalog.pg_database
        where datname = pg_catalog.current_database()))
"""


@dataclass(frozen=True)
class MoveStatus:
    """A move as its shards tell of it.

    `state` is that of the topology file, None when the move is over; `step` how far it is. `copied` of about `total`
    rows are copied. `owner` is who has the token. `behind` and `kept` are bytes of log by stream (source>target): not
    applied yet, and kept on the server for it. `errors` are failures to apply, by stream. `stragglers` are sessions of
    routers that work by an older topology. `is_made`: a process makes the move just now. `told` are what its steps have
    found: seconds of the rehearsal's pause, of the hand-over's lock, and until the token arrived. `unreached` says why
    which shards told nothing.
    """

    number: int
    what: str
    source: str
    target: str
    state: str | None
    step: str
    begun_at: datetime
    finished_at: datetime | None
    copied: int
    total: int
    owner: str | None = None
    is_made: bool = False
    wanted: str | None = None
    behind: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    stragglers: Sequence[Straggler] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    unreached: Mapping[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        """Rows that are copied in a second, while they are."""
        begun = self.told.get("copy_begun")
        if self.step != "copying" or begun is None or not self.copied:
            return None
        return float(self.copied / max(0.001, datetime.now(UTC).timestamp() - float(begun)))

    @property
    def seconds_left(self) -> float | None:
        """About how long copying will still take."""
        return None if self.rate is None else max(0.0, (self.total - self.copied) / self.rate)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        stragglers = [straggler.as_dict() for straggler in self.stragglers]
        notes = {name: value for name, value in self.told.items() if name != "copy_begun"}
        rest = {"rate": self.rate, "seconds_left": self.seconds_left, "stragglers": stragglers, "told": notes}
        return {**asdict(self), **rest}


async def move_status(
    topology: Topology, number: int | None = None, *, over: bool = False, timeout: float = 30.0
) -> list[MoveStatus]:
    """The moves that run, or that of a number, whether or not it is over; with `over` those as well that are.

    Raises `ScatterError` when no shard can be reached.
    """
    async with connected(dict.fromkeys(topology.shards, topology), timeout, some=True) as conns:
        by_shard, failed = await conns.answers(conns.names, lambda name, conn: records(conn))
        unreached = {name: summary(error) for name, error in {**conns.missing, **failed}.items()}
        newest: dict[int, Record] = {}
        for record in (record for statuses in by_shard.values() for record in statuses):
            there = newest.get(record.number)
            # The source is told first of each step, the target of what is copied nothing at all.
            if there is None or (record.is_over, record.copied) > (there.is_over, there.copied):
                newest[record.number] = record
        statuses = []
        for record in sorted(newest.values(), key=lambda record: record.number):
            wanted = record.number == number if number is not None else over or not record.is_over
            if wanted:
                statuses.append(await _status(topology, record, conns, unreached))
        return statuses


async def _status(topology: Topology, record: Record, conns: Connections, unreached: Mapping[str, str]) -> MoveStatus:
    move = topology.moves.get(record.number)
    known = move or record.move
    fixed = MoveStatus(
        record.number,
        known.what,
        known.source,
        known.target,
        move.state if move is not None else None,
        record.step,
        record.begun_at,
        record.finished_at,
        record.copied,
        record.total,
        wanted=record.wanted,
        told=record.told,
        unreached={name: why for name, why in unreached.items() if name in (known.source, known.target)},
    )
    return fixed if move is None else await _live(fixed, topology, move, conns)


async def _live(fixed: MoveStatus, topology: Topology, move: RunningMove, conns: Connections) -> MoveStatus:
    behind: dict[str, int] = {}
    kept: dict[str, int] = {}
    errors: dict[str, int] = {}
    left: list[Straggler] = []
    owners: dict[str, str | None] = {}
    made = False
    for of in (replication.forward(topology, move), replication.backward(topology, move)):
        name = f"{of.source}>{of.target}"
        if of.source in conns and (slot := await replication.slot(conns[of.source], of)) is not None:
            kept[name], behind[name] = slot
        if of.target in conns and await replication.is_subscribed(conns[of.target], of):
            errors[name] = await replication.apply_errors(conns[of.target], of)
    for shard in (move.source, move.target):
        if shard in conns:
            made = made or await _is_made(conns[shard], move.number)
            owners[shard] = await token_owner(conns[shard], move.number)
            left += await stale_sessions(conns[shard], shard, topology.epoch, router_roles(topology))
    owner = next((shard for shard, owner in owners.items() if owner == shard), None)
    return MoveStatus(
        **{
            **{name: getattr(fixed, name) for name in MoveStatus.__dataclass_fields__},
            "owner": owner,
            "is_made": made,
            "behind": behind,
            "kept": kept,
            "errors": errors,
            "stragglers": tuple(left),
        }
    )


async def _is_made(conn: Conn, number: int) -> bool:
    return bool(await one(conn, _MAKING, (LOCK_CLASS, 2**32 + MOVER_LOCK_GROUP - number)))
