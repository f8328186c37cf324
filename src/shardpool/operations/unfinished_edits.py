"""Edits that were begun and not finished: what the shards know of them, and the last step, which can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..control.contract import moved_vectors
from ..control.install import CURRENT_QUERY, accept_maps, control_sql, edit_statements
from ..control.locks import EDIT_LOCK_GROUP, INSTALL_LOCK_GROUP, LOCK_CLASS
from ..control.publication import PUBLISH_EDIT
from ..errors import EditRefused
from ..topology import Endpoint, Shard, Topology
from . import settling
from .barrier import Straggler
from .connections import Conn, Connections, connected, one, rows

Say = Callable[[str], None]

_PENDING = (
    "select epoch, digest, change, author, plan from shardpool.history where outcome = 'begun' order by epoch desc"
)


@dataclass(frozen=True, slots=True)
class TakenUp:
    """An edit that was finished for another process. `untold` are shards that left the fleet by it, and were not there.

    Nobody will ask those again, so that only the record on their own servers stays unfinished. `behind` are sessions of
    routers that still work by an older topology.
    """

    epoch: int
    change: str
    untold: tuple[str, ...]
    behind: tuple[Straggler, ...] = ()


async def show_alive(conn: Conn, pooler: str) -> None:
    """Hold the lock of a living editor until the connection ends; raises `EditRefused` when another one holds it.

    Behind a transaction pooler a lock of a session would stay with the pooler's session: there is none.
    """
    if pooler == "transaction":
        return
    if await one(conn, "select pg_catalog.pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, EDIT_LOCK_GROUP)):
        return
    pending = await rows(conn, _PENDING)
    detail = f"Epoch {pending[0][0]}, by {pending[0][3]}: {pending[0][2]}" if pending else None
    raise EditRefused(
        "somebody else is editing this topology just now", detail=detail, hint="Wait until it is done, and look again."
    )


async def install(conn: Conn, statements: Sequence[str]) -> None:
    """Statements of the control schema, in one transaction, while nobody else installs."""
    async with conn.transaction():
        await conn.execute(f"select pg_catalog.pg_advisory_xact_lock({LOCK_CLASS}, {INSTALL_LOCK_GROUP})")
        for statement in statements:
            await conn.execute(statement)


async def finish(conns: Connections, new: Topology, epoch: int, of_digest: str, moves: bool) -> None:
    """The last step, on every shard in one transaction; it can be made again.

    When no key moves, routers of the old topology are still right: shards go on letting them in.
    """

    async def end(name: str, conn: Conn) -> None:
        statements = edit_statements(new, name) if name in new.shards else []
        async with conn.transaction():
            await conn.execute(f"select pg_catalog.pg_advisory_xact_lock({LOCK_CLASS}, {INSTALL_LOCK_GROUP})")
            if not await one(conn, CURRENT_QUERY):
                await conn.execute(control_sql())
            for statement in statements:
                await conn.execute(statement)
            await conn.execute("select shardpool.end_edit(%s, %s, true)", (epoch, of_digest))
            for statement in accept_maps([new], only=moves):
                await conn.execute(statement)

    await conns.on(conns.names, end, "finishing the edit")


async def publish(conns: Connections, epoch: int, of_digest: str) -> None:
    """Let routers take the topology of an edit over from the shards: the file is replaced. It can be made again."""

    async def tell(name: str, conn: Conn) -> None:
        await conn.execute(PUBLISH_EDIT, (epoch, of_digest))

    await conns.on(conns.names, tell, "publishing the edit")


def leaving(before: Topology, new: Topology, reached: Sequence[str]) -> dict[str, Any]:
    """Where the shards are that leave the fleet by an edit, which the new file does not say. Holds no password."""
    ends = {name: before.shards[name].writable for name in reached if name not in new.shards}
    return {name: {"params": dict(end.params), "password_file": end.password_file} for name, end in ends.items()}


async def next_epoch(topology: Topology, timeout: float) -> int:
    """An epoch above those of all edits that were begun on a shard: for one that takes over."""
    if topology.control == "none":
        return topology.epoch + 1

    async def pending(name: str, conn: Conn) -> int:
        return max((int(row[0]) for row in await _pending(conn)), default=0)

    async with connected(dict.fromkeys(topology.shards, topology), timeout, some=True) as conns:
        newest = await conns.on(conns.names, pending, "the look for edits that are not finished")
    return max([topology.epoch, *newest.values()]) + 1


async def _pending(conn: Conn) -> list[tuple[Any, ...]]:
    if not await one(conn, "select pg_catalog.to_regclass('shardpool.history') is not null"):
        return []
    return await rows(conn, _PENDING)


async def resume(
    digest: str, topology: Topology, *, settle: float, timeout: float = 120.0, say: Say = lambda step: None
) -> TakenUp | None:
    """Finish the edit that has written the file of this digest and was killed after it; None if there is none.

    The file may have been touched by hand since, as long as it gives every bucket to whom the edit gives it. A shard
    that cannot be reached is in the way only when there is something to finish: `EditRefused`.
    """
    if topology.control == "none":
        return None

    async def pending(name: str, conn: Conn) -> Any:
        return next((row for row in await _pending(conn) if _is_of(row, digest, topology)), None)

    everywhere = dict.fromkeys(topology.shards, topology)
    async with connected(everywhere, timeout + settle, some=True) as conns:
        by_shard = await conns.on(conns.names, pending, "the look for an edit that is not finished")
        left = {name: row for name, row in by_shard.items() if row is not None}
        if not left:
            return None
        missing = [name for name in topology.shards if name not in conns]
        if missing:
            raise EditRefused(
                "an edit is not finished, and not all shards can be reached",
                detail=f"Not reached: {', '.join(missing)}.",
                hint="Run the same command again when they are back.",
            )
        arbiter = min(topology.shards)
        await show_alive(conns[arbiter], topology.shards[arbiter].primary.pooler)
        epoch, of_digest, change, _, plan = next(iter(left.values()))
        moves = plan.get("settle", bool(plan["owners"]))
        behind: tuple[Straggler, ...] = ()
        if "document" in plan:
            await publish(conns, epoch, of_digest)
        if moves and settle > 0:
            say("settle")
            behind = await settling.settle(conns, everywhere, epoch, settle)
        say("finish")
        await finish(conns, topology, epoch, of_digest, moves)
    untold = await _tell_leavers(topology, plan.get("leaving", {}), epoch, of_digest, moves, timeout)
    return TakenUp(epoch, change, untold, behind)


def _is_of(row: Sequence[Any], digest: str, topology: Topology) -> bool:
    """Whether the record is of the edit that has written this file."""
    epoch, of_digest, _, _, plan = row
    if epoch != topology.epoch:
        return False
    return bool(of_digest == digest) or all(_gives(plan, name, topology) for name in plan["owners"])


def _gives(plan: Mapping[str, Any], keyspace: str, topology: Topology) -> bool:
    """Whether the topology gives a keyspace's buckets to whom the plan gives them, and places its keys as the plan."""
    if keyspace not in topology.keyspaces:
        return False
    entries = plan["owners"][keyspace]
    owners = [entry["shard"] for entry in entries for _ in range(entry["first_bucket"], entry["last_bucket"] + 1)]
    space = topology.keyspaces[keyspace]
    same_vectors = not moved_vectors(plan.get("vectors", {}).get(keyspace, []), space.partitioning)
    return owners == list(space.shard_by_bucket) and same_vectors


async def _tell_leavers(
    topology: Topology, leavers: Mapping[str, Any], epoch: int, of_digest: str, moves: bool, timeout: float
) -> tuple[str, ...]:
    """Finish on the shards that have left the fleet; gives those that cannot be told, with their addresses."""
    password = topology.shards[min(topology.shards)].primary.password
    ends = {
        name: Endpoint(
            "primary",
            "primary",
            tuple(sorted(there["params"].items())),
            password=None if there["password_file"] else password,
            password_file=there["password_file"],
        )
        for name, there in leavers.items()
        if name not in topology.shards
    }
    if not ends:
        return ()
    gone = replace(topology, shards={name: Shard(name, end) for name, end in ends.items()}, keyspaces={})
    async with connected(dict.fromkeys(ends, gone), timeout, some=True) as conns:
        await finish(conns, topology, epoch, of_digest, moves)
        return tuple(f"{name} ({ends[name].address})" for name in ends if name not in conns)
