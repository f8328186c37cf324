"""What a shard records of its migrations: the row of each, and one line of history after the other."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..version import __version__ as _version
from . import state
from .files import Migration
from .session import ShardSession, who
from .state import Direction

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet

_AS_ITSELF = "SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE NONE"


class Records:
    """Writes them in the session of the runner, as the runner's own role while `sets_role` is true."""

    def __init__(self, session: ShardSession) -> None:
        self._session = session
        # Whether the file that runs may have set another role.
        self.sets_role = False

    async def finish(self, migration: Migration, direction: Direction, count: int, begun: float) -> None:
        """Record that all of it is done; in the transaction of its last step where that is one."""
        took = monotonic() - begun
        if direction == "down":
            await self._record(state.REMOVE, {"version": migration.version})
        else:
            await self.write(migration, "applied", direction, count, count, seconds=took)
        await self.log(migration.version, "applied" if direction == "up" else "reverted", seconds=took)

    async def write(
        self,
        migration: Migration,
        status: str,
        direction: Direction,
        count: int,
        done: int,
        *,
        begun: bool = False,
        digest: str | None = None,
        seconds: float | None = None,
        error: str | None = None,
    ) -> None:
        """The migration's row, as it is from now on."""
        values = values_of(
            self._session.fleet, migration.version, migration.name, migration.checksum, status, direction=direction
        )
        values |= {"steps": count, "steps_done": done, "step_begun": begun, "done_digest": digest}
        values |= {"seconds": seconds, "error": error}
        await self._record(state.WRITE, values)

    async def log(
        self,
        version: str,
        event: str,
        *,
        step: int | None = None,
        seconds: float | None = None,
        detail: str | None = None,
    ) -> None:
        """One more line of the history."""
        values = {"version": version, "event": event, "step": step, "seconds": seconds, "detail": detail, "by": who()}
        await self._record(state.LOG, values)

    async def _record(self, query: str, values: Mapping[str, Any]) -> None:
        conn = self._session.worker
        if not self.sets_role:
            await conn.execute(query, values, prepare=False)
            return
        async with conn.transaction():
            await conn.execute(_AS_ITSELF, prepare=False)
            await conn.execute(query, values, prepare=False)


def values_of(
    fleet: AsyncFleet,
    version: str,
    name: str,
    checksum: str | None,
    status: str,
    *,
    direction: Direction = "up",
    origin: str | None = None,
) -> dict[str, Any]:
    """The parameters of `state.WRITE` for a row that is whole."""
    return {
        "version": version,
        "name": name,
        "checksum": checksum,
        "status": status,
        "direction": direction,
        "steps": 1,
        "steps_done": 1,
        "step_begun": False,
        "done_digest": None,
        "seconds": None,
        "applied_by": who(),
        "tool": f"shardpool {_version}",
        "epoch": fleet.topology.epoch,
        "origin": origin,
        "error": None,
    }
