"""An edit of the topology, applied: announced on the shards, then written to the file, then finished on the shards.

::

    count     rows of buckets that would change their owner: none, or refused          (reads only)
    begin     on every shard a record, by compare-and-swap on the epoch; the first shard decides between two editors
    prepare   new shards get the schema; a shard that is renamed answers to both names
    fence     shards that give buckets away refuse rows of them; rows are counted again, and nothing can come after
    file      replaced in one step
    settle    running routers take the file over; nothing on the shards refuses either of the two topologies
    finish    owners, names and epoch on every shard, in one transaction each; older topologies are refused

Every step can be made again. One that is killed is taken up where it was by the same command: the record on the shards
holds the digest of the new file, and all that finishing needs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from .. import control
from ..changes import losers, renamed, renames
from ..config import LockedFile, Snapshot, digest
from ..control import EDIT_LOCK_GROUP, LOCK_CLASS, NOT_INSTALLED_HINT
from ..errors import EditRefused
from ..topology import Topology
from .connections import Conn, Connections, connected, one, rows
from .edit_plan import Plan, counted, first_plan, given_away, reached

# How long a fence may wait for the writers at work on a table before it lets others pass, and how often it is tried.
_LOCK_TIMEOUT = "500ms"
_LOCK_TRIES = 20
_LOCK_PAUSE = 0.2
# Seconds in which running routers take a new file over: they look every 5 s unless told otherwise.
SETTLE = 8.0

_BEGIN = "select shardpool.begin_edit(%s, %s, %s, %s, %s, %s::jsonb, %s)"
_PENDING = (
    "select epoch, digest, change, author, plan from shardpool.history where outcome = 'begun' order by epoch desc"
)


@dataclass(frozen=True)
class Edit:
    """What is to be applied: the file as it was read, the new text with its epoch raised, what both mean, and by whom.

    `change` is told to those who read the history: it holds no secret.
    """

    before: Snapshot
    text: str
    old: Topology
    new: Topology
    change: str
    author: str

    @property
    def digest(self) -> str:
        return digest(self.text)


@dataclass(frozen=True)
class Applied:
    """What came of an edit: its epoch, the plan that it followed, and whether an earlier attempt was taken up."""

    epoch: int
    plan: Plan | None
    resumed: bool


Say = Callable[[str], None]


async def apply_edit(
    file: LockedFile,
    edit: Edit,
    *,
    settle: float = SETTLE,
    take_over: bool = False,
    timeout: float = 120.0,
    say: Say = lambda step: None,
) -> Applied:
    """Apply an edit to the fleet and to the file, or raise with both unchanged.

    `say` is told each step before it is made. Raises `EditRefused`, `ScatterError`; after the file is replaced an error
    leaves the shards to be finished by the same command.
    """
    plan = first_plan(edit.old, edit.new)
    if edit.new.control == "none":
        say("file")
        file.replace(edit.before, edit.text)
        return Applied(edit.new.epoch, plan, False)
    async with connected(reached(edit.old, edit.new), timeout + settle) as conns:
        return await _Application(file, edit, plan, conns, say).run(settle, take_over)


class _Application:
    """One edit while it is being applied."""

    def __init__(self, file: LockedFile, edit: Edit, plan: Plan, conns: Connections, say: Say) -> None:
        self._file = file
        self._edit = edit
        self._plan = plan
        self._conns = conns
        self._say = say
        self._names = renames(edit.old, edit.new)
        self._fresh: list[str] = []
        # Both editors of one topology choose the same.
        self._arbiter = min(name for name in conns.names if name in edit.new.shards)

    async def run(self, settle: float, take_over: bool) -> Applied:
        self._say("count")
        await self._conns.on(self._conns.names, self._check_server, "the look at who the servers are")
        self._plan = await counted(self._plan, self._conns)
        refused = self._plan.refusal()
        if refused is not None:
            raise refused
        await show_alive(self._conns[self._arbiter], self._edit.new.shards[self._arbiter].primary.pooler)
        self._say("begin")
        edit = await self._begin(take_over)
        self._say("prepare")
        await self._conns.on(self._conns.names, self._prepare, "preparing the shards")
        if losers(self._plan.moves):
            self._say("fence")
            await self._fence()
        self._say("file")
        try:
            self._file.replace(edit.before, edit.text)
        except EditRefused:
            await self._undo()
            raise
        await settled(settle if self._plan.moves else 0.0, self._say)
        self._say("finish")
        await finish(self._conns, edit.new, edit.new.epoch, edit.digest)
        return Applied(edit.new.epoch, self._plan, self._resumed)

    async def _check_server(self, name: str, conn: Conn) -> None:
        """The right server, with all that an edit calls; a new shard's may be bare."""
        bare = not await one(conn, "select pg_catalog.to_regclass('shardpool.self') is not null")
        is_new = name not in renamed(self._edit.old, self._names).shards
        if bare and not is_new:
            raise EditRefused(f"shard {name} carries no shardpool schema", hint=NOT_INSTALLED_HINT)
        if not bare:
            found = await rows(conn, "select fleet, shard, to_jsonb(self)->>'also' from shardpool.self")
            before = next((old for old, new in self._names.items() if new == name), name)
            fleet = self._edit.new.fleet
            if found and (found[0][0] != fleet or not {name, before} & set(found[0][1:])):
                raise EditRefused(
                    f"the server of shard {name} is shard {found[0][1]} of fleet {found[0][0]}",
                    hint="Set its address right in the topology.",
                )
        if bare:
            self._fresh.append(name)
        if bare or not await one(conn, "select pg_catalog.to_regclass('shardpool.history') is not null"):
            await install(conn, [control.control_sql()])

    async def _begin(self, take_over: bool) -> Edit:
        edit = self._edit
        before = renamed(edit.old, self._names)
        plan = json.dumps({"owners": control.changed_owners(edit.old, before, edit.new), "renames": self._names})

        async def begin(name: str, conn: Conn) -> str:
            arguments = (edit.old.epoch, edit.new.epoch, edit.digest, edit.change, edit.author, plan, take_over)
            return str(await one(conn, _BEGIN, arguments))

        outcomes = await self._conns.on([self._arbiter], begin, "beginning the edit")
        others = [name for name in self._conns.names if name != self._arbiter]
        outcomes |= await self._conns.on(others, begin, "beginning the edit")
        self._resumed = any(outcome != "begun" for outcome in outcomes.values())
        return edit

    async def _prepare(self, name: str, conn: Conn) -> None:
        if name in self._fresh:
            await install(conn, control.edit_statements(self._edit.new, name))
        if name in self._names.values():
            await conn.execute("update shardpool.self set also = %s where shard <> %s", (name, name))

    async def _fence(self) -> None:
        """Fences first, then the count: rows that came in since the first count are seen, and no more can come."""
        edit = self._edit

        async def fence(name: str, conn: Conn) -> None:
            spaces = given_away(self._plan.moves, name)
            fenced = {table for (table,) in await rows(conn, control.FENCED_QUERY)}
            for space, keyspace in edit.new.keyspaces.items():
                for table in keyspace.tables:
                    exists = await one(conn, "select pg_catalog.to_regclass(%s) is not null", (table,))
                    if exists and (space in spaces or table in fenced):
                        await _patiently(conn, control.fence_statement(keyspace, table, name, edit.new.epoch))

        try:
            await self._conns.on(self._conns.names, fence, "fencing")
            again = await counted(replace(self._plan, lost=()), self._conns)
            refused = again.refusal()
            if refused is not None:
                raise refused
        except Exception:
            await self._undo()
            raise

    async def _undo(self) -> None:
        """Back to how it was before the edit was begun."""
        edit = self._edit
        before = renamed(edit.old, self._names)

        async def undo(name: str, conn: Conn) -> None:
            owned = before.keyspaces if name in before.shards else {}
            for (table,) in await rows(conn, control.FENCED_QUERY):
                space = next((space for space in owned.values() if table in space.tables), None)
                # A fence of an earlier edit goes on refusing what it refused.
                statement = control.unfence_statement(table)
                if space is not None and await _fenced_before(conn, table, edit.new.epoch):
                    statement = control.fence_statement(space, table, name, edit.old.epoch)
                await _patiently(conn, statement)
            await conn.execute("select shardpool.end_edit(%s, %s, false)", (edit.new.epoch, edit.digest))

        await self._conns.on(self._conns.names, undo, "undoing the edit")


async def _fenced_before(conn: Conn, table: str, epoch: int) -> bool:
    """Whether the owners on the shard say that it has given away what the table's fence is for: an edit before this."""
    found = await rows(
        conn, "select 1 from shardpool.history where outcome = 'done' and plan->'owners' <> '{}' limit 1"
    )
    return bool(found)


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


async def install(conn: Conn, statements: list[str]) -> None:
    """Statements of the control schema, in one transaction, while nobody else installs."""
    async with conn.transaction():
        await conn.execute(f"select pg_catalog.pg_advisory_xact_lock({LOCK_CLASS}, {control.INSTALL_LOCK_GROUP})")
        for statement in statements:
            await conn.execute(statement)


async def _patiently(conn: Conn, statement: str) -> None:
    """A statement that locks a table: it gives way to others again and again, rather than hold up all writers."""
    for attempt in range(_LOCK_TRIES):
        try:
            async with conn.transaction():
                await conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
                await conn.execute(statement)
            return
        except psycopg.errors.LockNotAvailable:
            if attempt == _LOCK_TRIES - 1:
                raise
            await asyncio.sleep(_LOCK_PAUSE)


async def settled(seconds: float, say: Say) -> None:
    """Give running routers the time to take the new file over."""
    if seconds > 0:
        say("settle")
        await asyncio.sleep(seconds)


async def finish(conns: Connections, new: Topology, epoch: int, of_digest: str) -> None:
    """The last step, on every shard in one transaction; it can be made again."""

    async def end(name: str, conn: Conn) -> None:
        there = name in new.shards
        statements = control.edit_statements(new, name) if there else []
        async with conn.transaction():
            await conn.execute(f"select pg_catalog.pg_advisory_xact_lock({LOCK_CLASS}, {control.INSTALL_LOCK_GROUP})")
            for statement in statements:
                await conn.execute(statement)
            await conn.execute("select shardpool.end_edit(%s, %s, true)", (epoch, of_digest))

    await conns.on(conns.names, end, "finishing the edit")


async def next_epoch(topology: Topology, timeout: float) -> int:
    """An epoch above those of all edits that were begun on the first shard: for one that takes over."""
    if topology.control == "none":
        return topology.epoch + 1
    arbiter = min(topology.shards)
    async with connected({arbiter: topology}, timeout) as conns:
        pending = await rows(conns[arbiter], _PENDING)
    return max([topology.epoch, *(int(row[0]) for row in pending)]) + 1


async def take_up(
    file: Snapshot, topology: Topology, *, settle: float = SETTLE, timeout: float = 120.0, say: Say = lambda step: None
) -> str | None:
    """Finish the edit that has written this file and was killed after it; gives what it changed, None if there is none.

    A shard that cannot be reached is in the way only when there is something to finish: `EditRefused`.
    """
    if topology.control == "none":
        return None

    async def pending(name: str, conn: Conn) -> Any:
        if not await one(conn, "select pg_catalog.to_regclass('shardpool.history') is not null"):
            return None
        found = await rows(conn, _PENDING)
        return next((row for row in found if (row[0], row[1]) == (topology.epoch, file.digest)), None)

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
        change, plan = next((row[2], row[4]) for row in left.values())
        await settled(settle if plan["owners"] else 0.0, say)
        say("finish")
        await finish(conns, topology, topology.epoch, file.digest)
        return str(change)
