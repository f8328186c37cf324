"""Putting the records of migrations right, where a person has looked and decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from ..control.own_sql import qualified
from ..errors import BadMigration
from . import indexes, state
from .files import Folder
from .session import ShardSession, one, who
from .steps import prefix_digest, steps


@dataclass(frozen=True, slots=True)
class Repair:
    """What is to be done. Versions; `step_done` and `step_again` decide about a step of which nobody knows the end.

    `accept`: the file as it is now counts as what was applied. `forget`: the record is removed, nothing else.
    `indexes`: invalid indexes are built again.
    """

    accept: Sequence[str] = ()
    forget: Sequence[str] = ()
    step_done: Sequence[str] = ()
    step_again: Sequence[str] = ()
    indexes: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.accept or self.forget or self.step_done or self.step_again or self.indexes)


async def repair(session: ShardSession, folder: Folder, wanted: Repair) -> list[str]:
    """Do it on one shard, whose lock is held; what was done, in words."""
    conn = session.worker
    done: list[str] = []
    async with conn.transaction():
        for version in wanted.accept:
            migration = folder.find(version)
            done += await _change(conn, migration.version, "accepted", "checksum = %s", migration.checksum)
        for version in wanted.step_done:
            done += await _step_done(conn, folder, version)
        for version in wanted.step_again:
            done += await _change(
                conn, folder.find(version).version, "step to be done again", "step_begun = false", where="step_begun"
            )
        for version in wanted.forget:
            row = await one(
                conn, qualified("DELETE FROM shardpool.migrations WHERE version = %s RETURNING version"), (version,)
            )
            if row is not None:
                done.append(f"{version} forgotten")
                await _log(conn, version, "forgotten")
    if wanted.indexes:
        for index in await indexes.invalid(conn, session.shard):
            done.append(f"index {index.name} {await indexes.mend(conn, index)}")
    return done


async def _step_done(conn: AsyncConnection[Any], folder: Folder, version: str) -> list[str]:
    migration = folder.find(version)
    row = await one(
        conn,
        qualified("SELECT steps_done, direction FROM shardpool.migrations WHERE version = %s AND step_begun"),
        (migration.version,),
    )
    if row is None:
        return []
    block = migration.up if row[1] == "up" else migration.down
    if block is None or block.transactional:
        raise BadMigration(f"{migration.file} has no steps")
    digest = prefix_digest(steps(migration.file, block), row[0] + 1)
    change = "steps_done = steps_done OPERATOR(pg_catalog.+) 1, step_begun = false, done_digest = %s"
    return await _change(conn, migration.version, "step counts as done", change, digest, where="step_begun")


async def _change(
    conn: AsyncConnection[Any], version: str, event: str, change: str, *values: Any, where: str = "true"
) -> list[str]:
    row = await one(
        conn,
        f"UPDATE shardpool.migrations SET {change} WHERE version OPERATOR(pg_catalog.=) %s AND {where} "
        "RETURNING version",
        (*values, version),
    )
    if row is None:
        return []
    await _log(conn, version, event)
    return [f"{version} {event}"]


async def _log(conn: AsyncConnection[Any], version: str, event: str) -> None:
    values = {"version": version, "event": event, "step": None, "seconds": None, "detail": None, "by": who()}
    await conn.execute(state.LOG, values, prepare=False)
