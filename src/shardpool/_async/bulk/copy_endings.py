"""How a load ends that every shard has taken, or that has given way to another: who holds what then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import tuple_row

from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.tasks import async_run_all
from ...control.own_sql import qualified as own
from ...errors import CommitUnknown, LoadError, ScatterError, ShardError, first_line
from ..work.handle import AsyncShardHandle
from ..work.participants import AsyncParticipants
from ..work.transaction import AsyncTransaction
from ..work.two_phase import AsyncTwoPhase, new_id
from .copy_stream import STALL, AsyncStream

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

# Seconds to see who waits for a load.
_LOOK = 1.0
_WAITING = own("""
    select a.pid, a.application_name from pg_catalog.pg_stat_activity a
    where %s = any (pg_catalog.pg_blocking_pids(a.pid))
""")


async def commit(
    fleet: AsyncFleet,
    participants: AsyncParticipants,
    table: str,
    counts: Mapping[str, int],
    until: Deadline,
    *,
    as_one: bool,
) -> None:
    """COMMIT on all shards, in two phases when they are to be `as_one`; each has taken all its rows, and they hold."""
    deadline = min(until, deadline_after(STALL))
    try:
        if as_one:
            of = new_id(fleet.topology.fleet, next(iter(participants)))
            await AsyncTwoPhase(of, participants, fleet.recovery).commit(deadline)
        else:
            await AsyncTransaction(fleet, participants, deadline).commit()
    except CommitUnknown:
        raise
    except (ScatterError, psycopg.Error) as error:
        failures, results = (error.failures, error.results) if isinstance(error, ScatterError) else ({}, {})
        unknown = [name for name, failure in failures.items() if getattr(failure, "applied", None) == "unknown"]
        committed = {name: counts[name] for name in results}
        is_nothing = not committed and not unknown
        hint = "Load again only the keys of the shards that hold nothing: for_keys() tells which those are."
        raise LoadError(
            f"nothing was loaded into {table}: the shards did not commit"
            if is_nothing
            else f"the load was committed on {len(committed)} of {len(counts)} shards",
            committed=committed,
            rolled_back=[name for name in counts if name not in committed and name not in unknown],
            unknown=unknown,
            failures=failures,
            detail=None if failures else first_line(error),
            hint=None if is_nothing else hint,
        ) from error


async def waited(fleet: AsyncFleet, streams: Sequence[AsyncStream], error: LoadError) -> LoadError:
    """The error of a load that has given way, with those that wait for it: nothing is undone yet."""
    holding = [stream for stream in streams if stream.shard not in error.failures]
    outcomes = await async_run_all([partial(_waiting, fleet, stream) for stream in holding])
    found = [
        f"on shard {stream.shard} {who} waits for this load"
        for stream, (who, _) in zip(holding, outcomes, strict=True)
        if who
    ]
    return LoadError(
        str(error).partition("\n")[0],
        failures=error.failures,
        rolled_back=error.rolled_back,
        detail="; ".join(
            [f"on shard {name} it waited too long for a lock of another transaction" for name in error.failures] + found
        ),
        hint="Load again when the other is through; loads of the same keys one after the other do not meet.",
    )


async def _waiting(fleet: AsyncFleet, stream: AsyncStream) -> str:
    """The processes that wait for what the load holds on a shard; empty when that cannot be learned."""
    pid = stream.conn.info.backend_pid
    try:
        found = await AsyncShardHandle(fleet, stream.shard)._execute(
            _WAITING, (pid,), fleet.deadline(_LOOK), row_factory=tuple_row
        )
    except (ShardError, psycopg.Error):
        return ""
    return ", ".join(f"process {number}" + (f" ({name})" if name else "") for number, name in found.rows)
