# Generated from _async/bulk/copy.py by tools/unasync.py: edit that one, then run `make sync`.
"""`copy_into`: rows split by key into one COPY per shard, all at once, and an exact account when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

from ..._runtime.deadlines import NEVER, Deadline
from ..._runtime.tasks import run_all
from ...errors import LoadError, MissingKey
from ...query.analysis.catalog import Table
from ...query.analysis.timing import moments as moment_defaults
from ...query.plans.copies import loaded
from ...query.plans.numbered import drawn_columns, is_number
from ...topology import Placement, Reference, Sharded, Single, Topology, qualified
from ..fleet import redirects
from ..plans.planner import Planner
from ..work.participants import Participants, has_moved
from ..work.two_phase import obstacle
from . import copies
from .copy_endings import commit, waited
from .copy_load import Load
from .copy_stream import Stream

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet
    from ..work.session import Session


def copy_into(
    fleet: Fleet,
    planner: Planner,
    table: str,
    rows: Iterable[Sequence[Any]],
    *,
    columns: Sequence[str],
    binary: bool | None,
    until: Deadline | None,
    progress: Callable[[int], None] | None,
    atomic: bool,
    within: Session | None = None,
) -> dict[str, int]:
    """See `Router.copy_into`; `until` is in monotonic seconds; `within` is the transaction that it is part of."""
    soon = min(fleet.deadline(None), until or NEVER)
    if within is None:
        redirects.until_caught_up(fleet, soon)
    topology = fleet.topology
    placement = topology.placement(table)
    if isinstance(placement, Sharded):
        fleet.newer_maps.check(placement.keyspace, topology)
    names = _shards_of(topology, table)
    defaults: dict[str, str] = {}
    planner.refuse_effects_of_load(qualified(table), columns, soon)
    catalog = planner.schema.current(soon)
    facts = catalog.tables.get(qualified(table))
    numbered = _numbered(facts, placement, columns)
    positions = _key_positions(topology, table, [*columns, *numbered])
    if len(names) > 1:
        made = loaded(facts, columns, catalog) if facts is not None and isinstance(placement, Reference) else None
        if made is not None:
            return copies.copy_into(fleet, made, rows, columns, until, progress, atomic=atomic, within=within)
        defaults = moment_defaults(facts, catalog) if facts is not None else {}
        defaults = {name: default for name, default in defaults.items() if name not in columns}
    participants = Participants.take(
        fleet, names, min(fleet.deadline(None), until or NEVER), readonly=False, within=within
    )
    if has_moved(fleet.topology, topology):
        # By another one the rows would go elsewhere, and none was read.
        participants.end()
        options: dict[str, Any] = {"columns": columns, "binary": binary, "until": until, "progress": progress}
        return copy_into(fleet, planner, table, rows, **options, atomic=atomic, within=within)
    is_part = within is not None
    streams = [
        Stream(name, checkout, until or NEVER, is_part=is_part) for name, checkout in participants.checkouts.items()
    ]
    defaults = {name: default for name, default in defaults.items() if name not in numbered}

    def draw(count: int) -> list[list[int]]:
        """The numbers of so many rows, by column."""
        until_now = min(fleet.deadline(None), until or NEVER)
        return [planner.schema.numbers.take(name, count, until_now) for name in numbered.values()]

    load = Load(
        topology, table, [*columns, *numbered], positions, streams, defaults, progress, draw if numbered else None
    )
    if within is not None:
        return _part(within, load, streams, rows, binary)
    try:
        as_one = atomic and len(streams) > 1
        if as_one and (refusal := obstacle(participants.pools)) is not None:
            raise refusal
        try:
            counts = load.run(rows, binary)
        except LoadError as error:
            if any(isinstance(failure, psycopg.errors.LockNotAvailable) for failure in error.failures.values()):
                raise waited(fleet, streams, error) from error
            raise
        commit(fleet, participants, table, counts, until or NEVER, as_one=as_one)
        return counts
    finally:
        for stream in streams:
            stream.checkout.unwatch()
        participants.end(partial(_aborted, streams, load.failure))


def _part(
    within: Session,
    load: Load,
    streams: Sequence[Stream],
    rows: Iterable[Sequence[Any]],
    binary: bool | None,
) -> dict[str, int]:
    """The load as part of a transaction, which ends it."""
    with within.going_on("copy_into()"):
        try:
            counts = load.run(rows, binary)
        except BaseException as error:
            _aborted(streams, error)
            if isinstance(error, LoadError):
                error.failures = {name: within.waiting.meant(failure) for name, failure in error.failures.items()}
            raise
        finally:
            for stream in streams:
                stream.checkout.watch_until(within.until)
        within.will_write([name for name, count in counts.items() if count])
    return counts


def _aborted(streams: Sequence[Stream], failure: BaseException | None) -> None:
    """Undo what has failed; not before its error is known, for an interrupt may come meanwhile."""
    if failure is not None:
        run_all([partial(stream.abort, failure) for stream in streams])


def _numbered(table: Table | None, placement: Placement, columns: Sequence[str]) -> dict[str, str]:
    """The columns that the rows leave to sequences, by their names, with the sequence that numbers each."""
    if table is None or not isinstance(placement, Sharded):
        return {}
    return {
        name: column.sequence.name
        for name, column in drawn_columns(table, placement.key_columns).items()
        if name not in columns and column.sequence is not None and is_number(column)
    }


def _shards_of(topology: Topology, table: str) -> list[str]:
    match topology.placement(table):
        case Sharded(keyspace, _):
            owners = set(topology.keyspaces[keyspace].shard_names())
            return [name for name in topology.shards if name in owners]
        case Reference():
            return list(topology.shards)
        case Single(shard):
            return [shard]


def _key_positions(topology: Topology, table: str, columns: Sequence[str]) -> tuple[int, ...]:
    """Where in a row the parts of its key are; empty when the table has no key."""
    placement = topology.placement(table)
    if not isinstance(placement, Sharded):
        return ()
    missing = [column for column in placement.key_columns if column not in columns]
    if missing:
        raise MissingKey(
            f"the rows of {table} cannot be placed without {', '.join(missing)}",
            detail=f"columns given: {', '.join(columns)}",
            hint=f"{table} is placed by {', '.join(placement.key_columns)}: add it to columns=[…] and to each row.",
        )
    return tuple(list(columns).index(column) for column in placement.key_columns)
