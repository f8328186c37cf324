"""An edit of the topology, applied: announced on the shards, then written to the file, then finished on the shards.

::

    count     rows of buckets that would change their owner: none, or refused          (reads only)
    begin     on every shard a record, by compare-and-swap on the epoch; the first shard decides between two editors
    prepare   new shards get the schema; a shard that is renamed answers to both names
    numbers   where the shard leaves whose sequences number all rows, those of another go on behind them
    fence     shards that give buckets away refuse rows of them; rows are counted again, and nothing can come after
    file      replaced in one step, and published on the shards: routers take it over from either
    settle    running routers take it over, until none works by an older one; a shard on which none does lets none in
    finish    owners, names and epoch on every shard, in one transaction each; older topologies are refused

Every step can be made again. One that is killed is taken up where it was by the same command: the record on the shards
holds the digest of the new file, and all that finishing needs.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace

from ..changes import moves, renamed, renames, resettled
from ..config import FileSnapshot, LockedFile, digest, document
from ..control.contract import vectors
from ..control.identity import NOT_INSTALLED_HINT
from ..control.install import CURRENT_QUERY, accept_maps, changed_owners, control_sql, edit_statements
from ..errors import EditRefused, ScatterError
from ..topology import Topology
from . import settling
from .agreement import check_owners
from .barrier import Straggler
from .connections import Conn, Connections, connected, one, rows
from .edit_plan import EditPlan, counted, first_plan, given_away, reached
from .fences import draw_fences, moved_before, undo_fences
from .numbering import Position, carry_over, give_back, numbering_shards
from .unfinished_edits import Say, finish, install, leaving, publish, show_alive

# Seconds for which running routers are waited for at most: they look every 5 s unless told otherwise.
SETTLE = 8.0

_LOST = (
    "Shard {}, the first, numbers the rows of all, and has to say how far it is. Where its server is lost for good, "
    "take it out of the file by hand, raise the epoch, run shardpool init, and then what shardpool check says"
)

_BEGIN = "select shardpool.begin_edit(%s, %s, %s, %s, %s, %s::jsonb, %s)"
_END = "select shardpool.end_edit(%s, %s, false)"


@dataclass(frozen=True)
class Edit:
    """What is to be applied: the file as it was read, the new text with its epoch raised, what both mean, and by whom.

    `change` is told to those who read the history: it holds no secret. `mover` is the number of the move whose step the
    edit is, if it is one.
    """

    before: FileSnapshot
    text: str
    old: Topology
    new: Topology
    change: str
    author: str
    mover: int | None = None

    @property
    def digest(self) -> str:
        return digest(self.text)


@dataclass(frozen=True)
class Applied:
    """What came of an edit: its epoch, the plan that it followed, and whether an earlier attempt was taken up.

    `behind` are sessions of routers that work by an older topology, after all the time that they were given.
    """

    epoch: int
    plan: EditPlan | None
    resumed: bool
    behind: tuple[Straggler, ...] = ()


async def apply_edit(
    file: LockedFile,
    edit: Edit,
    *,
    settle: float = SETTLE,
    take_over: bool = False,
    timeout: float = 120.0,
    say: Say = lambda step: None,
    waiting: settling.Waiting = lambda stragglers: None,
) -> Applied:
    """Apply an edit to the fleet and to the file, or raise with both unchanged.

    `say` is told each step before it is made, `waiting` which programs that are no routers are waited for. Raises
    `EditRefused`, `ScatterError`; after the file is replaced an error leaves the shards to be finished by the same
    command.
    """
    plan = first_plan(edit.old, edit.new, edit.mover)
    file.check_writable(edit.before)
    if edit.old.control == "none":
        if (handing := numbering_shards(edit.old, edit.new)) is not None:
            say("numbers")
            shards = {name: topology for name, topology in reached(edit.old, edit.new).items() if name in handing}
            async with connected(shards, timeout) as conns:
                await carry_over(conns, *handing)
        say("file")
        file.replace(edit.before, edit.text)
        return Applied(edit.new.epoch, plan, False)
    async with AsyncExitStack() as stack:
        try:
            conns = await stack.enter_async_context(connected(reached(edit.old, edit.new), timeout + settle))
        except ScatterError as error:
            handing = numbering_shards(edit.old, edit.new)
            if handing is not None and handing[0] in error.failures:
                error.hint = _LOST.format(handing[0])
            raise
        return await _Application(file, edit, plan, conns, say, waiting).run(settle, take_over)


class _Application:
    """One edit while it is being applied."""

    def __init__(
        self, file: LockedFile, edit: Edit, plan: EditPlan, conns: Connections, say: Say, waiting: settling.Waiting
    ) -> None:
        self._file = file
        self._edit = edit
        self._plan = plan
        self._conns = conns
        self._say = say
        self._waiting = waiting
        self._names = renames(edit.old, edit.new)
        self._before = renamed(edit.old, self._names)
        self._resettled = resettled(plan.old, edit.new)
        self._fresh: list[str] = []
        self._take_over = False
        self._undone = False
        self._resumed = False
        self._behind: tuple[Straggler, ...] = ()
        self._ended: list[Position] = []
        # The first shard by its old name: two editors of one topology choose the same, unless one of them removes it.
        old_name = {new: old for old, new in self._names.items()}
        staying = [name for name in self._before.shards if name in edit.new.shards and name in conns]
        self._arbiter = min(staying or conns.names, key=lambda name: old_name.get(name, name))

    async def run(self, settle: float, take_over: bool) -> Applied:
        self._take_over = take_over
        self._say("count")
        await self._conns.on(self._conns.names, self._check_server, "the look at who the servers are")
        self._plan = await counted(self._plan, self._conns)
        refused = self._plan.refusal()
        if refused is not None:
            raise refused
        await show_alive(self._conns[self._arbiter], self._edit.new.shards[self._arbiter].primary.pooler)
        self._say("begin")
        await self._begin(take_over)
        try:
            await self._announced(settle, take_over)
        except (EditRefused, ScatterError) as error:
            if not self._undone:
                # Whatever the step itself would have said is to be done: this does it.
                unfinished = f"Epoch {self._edit.new.epoch} was begun and is not finished."
                error.hint = f"{unfinished} Run the same command again: it goes on."
            raise
        return Applied(self._edit.new.epoch, self._plan, self._resumed, self._behind)

    async def _announced(self, settle: float, take_over: bool) -> None:
        edit = self._edit
        self._say("prepare")
        await self._conns.on(self._conns.names, self._prepare, "preparing the shards")
        if numbering_shards(edit.old, edit.new) is not None:
            self._say("numbers")
            await self._or_undo(self._carry_over)
        if self._plan.moves or self._resettled or take_over:
            self._say("fence")
            await self._or_undo(self._fence)
        self._say("file")
        await self._or_undo(self._replace)
        await publish(self._conns, edit.new.epoch, edit.digest)
        if self._moves and settle > 0:
            self._say("settle")
            shards = reached(edit.old, edit.new)
            self._behind = await settling.settle(self._conns, shards, edit.new.epoch, settle, self._waiting)
        self._say("finish")
        await finish(self._conns, edit.new, edit.new.epoch, edit.digest, self._moves)

    @property
    def _moves(self) -> bool:
        return bool(moves(self._edit.old, self._edit.new) or resettled(self._edit.old, self._edit.new))

    async def _replace(self) -> None:
        self._file.replace(self._edit.before, self._edit.text)

    async def _or_undo(self, step: Callable[[], Awaitable[None]]) -> None:
        """A step after which all is as before the edit when it is refused."""
        try:
            await step()
        except (EditRefused, ScatterError, OSError):
            with suppress(ScatterError):  # what could not be undone is gone on with by the same command
                await self._undo()
                self._undone = True
            raise

    async def _check_server(self, name: str, conn: Conn) -> None:
        """The right server, with all that an edit calls and the owners of the file; a new shard's may be bare."""
        bare = not await one(conn, "select pg_catalog.to_regclass('shardpool.self') is not null")
        is_new = name not in self._before.shards
        if bare and not is_new:
            raise EditRefused(f"shard {name} carries no shardpool schema", hint=NOT_INSTALLED_HINT)
        identities = None
        if not bare:
            identities = await rows(conn, "select fleet, shard, to_jsonb(self)->>'also' from shardpool.self")
            before = next((old for old, new in self._names.items() if new == name), name)
            fleet = self._edit.new.fleet
            if identities and (identities[0][0] != fleet or not {name, before} & set(identities[0][1:])):
                raise EditRefused(
                    f"the server of shard {name} is shard {identities[0][1]} of fleet {identities[0][0]}",
                    hint="Set its address right in the topology.",
                )
            if not is_new:
                await check_owners(conn, self._edit.old, name)
        if not identities:
            self._fresh.append(name)
        if bare or not await one(conn, CURRENT_QUERY):
            await install(conn, [control_sql()])

    async def _begin(self, take_over: bool) -> None:
        edit, before = self._edit, self._before
        values = {
            "settle": self._moves,
            "renames": self._names,
            "leaving": leaving(before, edit.new, self._conns.names),
            "vectors": vectors(edit.new) if self._moves else {},
            "document": document(edit.new),
            "maps": {name: keyspace.map_digest for name, keyspace in edit.new.keyspaces.items()},
            "tables": True,
        }

        async def begin(name: str, conn: Conn) -> str:
            is_new = name not in before.shards
            owners = changed_owners(edit.old, before, edit.new, everything=is_new)
            plan = json.dumps({**values, "owners": owners})
            # A shard that joins may have been in the fleet before: what was not finished there then is nobody's.
            instead = take_over or is_new
            arguments = (edit.old.epoch, edit.new.epoch, edit.digest, edit.change, edit.author, plan, instead)
            return str(await one(conn, _BEGIN, arguments))

        outcomes = await self._conns.on([self._arbiter], begin, "beginning the edit")
        others = [name for name in self._conns.names if name != self._arbiter]
        try:
            outcomes |= await self._conns.on(others, begin, "beginning the edit")
        except (EditRefused, ScatterError):
            if outcomes[self._arbiter] == "begun":
                # Nobody else is kept from editing by what has come to nothing.
                with suppress(ScatterError):
                    await self._conns.on(self._conns.names, self._end, "undoing the edit")
            raise
        self._resumed = any(outcome != "begun" for outcome in outcomes.values())

    async def _end(self, name: str, conn: Conn) -> None:
        await conn.execute(_END, (self._edit.new.epoch, self._edit.digest))

    async def _prepare(self, name: str, conn: Conn) -> None:
        if name in self._fresh:
            await install(conn, edit_statements(self._edit.new, name))
        if name in self._names.values():
            await conn.execute("update shardpool.self set also = %s where shard <> %s", (name, name))
        # Routers may have the old file or the new one until the edit is finished.
        await install(conn, accept_maps([self._edit.old, self._edit.new], only=self._take_over))

    async def _carry_over(self) -> None:
        handing = numbering_shards(self._edit.old, self._edit.new)
        assert handing is not None
        self._ended = await carry_over(self._conns, *handing)

    async def _fence(self) -> None:
        """Fences first, then the count: rows that came in since the first count are seen, and no more can come."""
        edit = self._edit

        async def fence(name: str, conn: Conn) -> None:
            spaces = given_away(self._plan.moves, name)
            tables = {
                table for space in spaces if space in edit.new.keyspaces for table in edit.new.keyspaces[space].tables
            }
            tables |= {table for table, shards in self._resettled.items() if name in shards}
            await draw_fences(conn, edit.new, name, tables)

        await self._conns.on(self._conns.names, fence, "fencing")
        again = await counted(replace(self._plan, lost=()), self._conns)
        refused = again.refusal()
        if refused is not None:
            raise refused

    async def _undo(self) -> None:
        """Back to how it was before the edit was begun."""

        async def undo(name: str, conn: Conn) -> None:
            # Fences of earlier edits go on refusing what they refused.
            await undo_fences(conn, self._before, name, await moved_before(conn))
            await install(conn, accept_maps([self._edit.old], only=True))
            await self._end(name, conn)

        await self._conns.on(self._conns.names, undo, "undoing the edit")
        if self._ended:
            await give_back(self._conns[self._before.numbering_shard], self._ended)
