"""Whether a move can be made, looked at before anything is changed: everything that stands against it, at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..control import guard, identity, install
from ..control.contract import self_test_query
from ..errors import MoveRefused
from ..operations.barrier import router_roles, stale_sessions
from ..operations.connections import Conn, Connections, one, rows
from ..quoting import quote_table
from ..topology import RunningMove, Sharded, Topology
from . import tables
from .links import linked
from .record import records
from .tables import MovedTable, read_table

# Seconds in which every row of the target is looked at for whether it is one that moves.
_READING = 3600.0
# Seconds that a prepared transaction may be undecided.
_UNDECIDED = 60

_SERVER = """
    select pg_catalog.current_setting('server_version_num')::int, pg_catalog.current_setting('wal_level'),
      pg_catalog.current_setting('max_replication_slots')::int
        - (select count(*)::int from pg_catalog.pg_replication_slots),
      pg_catalog.current_setting('max_wal_senders')::int
        - (select count(*)::int from pg_catalog.pg_stat_activity where backend_type = 'walsender'),
      least(pg_catalog.current_setting('max_logical_replication_workers')::int,
        pg_catalog.current_setting('max_worker_processes')::int - 1)
        - (select count(*)::int from pg_catalog.pg_stat_subscription where pid is not null),
      pg_catalog.pg_is_in_recovery()
"""
_ROLE = """
    select current_user::text, r.rolsuper, r.rolsuper or r.rolreplication,
      pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create'),
      pg_catalog.has_parameter_privilege('session_replication_role', 'set')
    from pg_catalog.pg_roles r where r.rolname = current_user
"""
_SUBSCRIBER = "select pg_catalog.pg_has_role(current_user, 'pg_create_subscription', 'usage')"
_PREPARED = """
    select gid, extract(epoch from pg_catalog.clock_timestamp() - prepared)::int from pg_catalog.pg_prepared_xacts
    where database = pg_catalog.current_database()
      and prepared < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %s)
"""
_SUPERUSERS = "select rolname::text from pg_catalog.pg_roles where rolsuper and rolname = any (%s)"
# Other tables whose rows refer to rows that go, or are referred to by them.
_TIES = """
    select pg_catalog.format('%s.%s', n.nspname, c.relname), pg_catalog.format('%s.%s', fn.nspname, f.relname)
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class c on c.oid = k.conrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_class f on f.oid = k.confrelid join pg_catalog.pg_namespace fn on fn.oid = f.relnamespace
    where k.contype = 'f' and k.conparentid = 0 and not c.relispartition
"""
# Whether the values of a column come from a sequence: its step, its least and greatest value, and its last.
SEQUENCE = """
    select q.seqincrement, q.seqmin, q.seqmax, coalesce(pg_catalog.pg_sequence_last_value(q.seqrelid), q.seqstart - 1),
      q.seqrelid::regclass::text
    from pg_catalog.pg_sequence q
    where q.seqrelid = pg_catalog.to_regclass(pg_catalog.pg_get_serial_sequence(%s, %s))
"""


@dataclass(frozen=True)
class Ready:
    """What the look before a move has found, where nothing stands against it."""

    tables: tuple[MovedTable, ...]
    rows: int
    bytes: int
    roles: tuple[str, ...]
    warnings: tuple[str, ...] = ()


async def preflight(
    topology: Topology, move: RunningMove, *, roles: Sequence[str] = (), terminate: bool = False
) -> Ready:
    """Raise `MoveRefused` with all that stands against a move; reads the moving tables on the target."""
    asked = router_roles(topology, roles)
    if topology.control == "none":
        raise MoveRefused("control: none: the shards carry no shardpool schema, by which rows are moved")
    async with linked(topology, move.source, move.target, seconds=_READING) as conns:
        checks = _Preflight(topology, move, conns, asked, terminate)
        problems = [problem async for problem in checks.problems()]
        if problems:
            raise MoveRefused(
                f"{move.what} cannot be moved from {move.source} to {move.target}"
                + (f": {len(problems)} things are in the way" if len(problems) > 1 else ""),
                detail="\n".join(f"- {problem}" for problem in problems) if len(problems) > 1 else problems[0],
                hint="Nothing was changed. What each of them needs is said in docs/howto/move-buckets.md",
                problems=problems,
            )
        share = _share(topology, move)
        here = checks.here
    count = int(sum(table.rows for table in here) * share)
    return Ready(tuple(here), count, int(sum(table.bytes for table in here) * share), tuple(asked))


def _share(topology: Topology, move: RunningMove) -> float:
    """What part of the source's rows moves, if each of its buckets has as many."""
    if move.keyspace is None:
        return 1.0
    mine = topology.keyspaces[move.keyspace].shard_by_bucket.count(move.source)
    return len([*move.bucket_numbers]) / mine if mine else 1.0


class _Preflight:
    """One look at both servers."""

    def __init__(
        self, topology: Topology, move: RunningMove, conns: Connections, roles: Sequence[str], terminate: bool
    ) -> None:
        self._topology = topology
        self._move = move
        self._conns = conns
        self._roles = roles
        self._terminate = terminate
        self.here: list[MovedTable] = []

    async def problems(self) -> AsyncIterator[str]:
        ends = (self._move.source, self._move.target)
        carries = True
        for shard in ends:
            async for problem in self._identity(shard):
                carries = False
                yield problem
            async for problem in self._server(shard):
                yield problem
            async for problem in self._role(shard):
                yield problem
        if not carries:
            return
        for shard in ends:
            async for problem in self._sessions(shard):
                yield problem
        async for problem in self._tables():
            yield problem

    async def _identity(self, shard: str) -> AsyncIterator[str]:
        conn = self._conns[shard]
        if not await one(conn, "select pg_catalog.to_regclass('shardpool.self') is not null"):
            yield f"shard {shard} carries no shardpool schema. {identity.NOT_INSTALLED_HINT}"
            return
        if not await one(conn, install.CURRENT_QUERY):
            yield f"the shardpool schema of shard {shard} is of an older version. {identity.NOT_INSTALLED_HINT}"
            return
        problem = identity.check_identity((await rows(conn, identity.IDENTITY_QUERY))[0], self._topology, shard)
        if problem is not None:
            yield f"shard {shard}: {problem}"
        elif await one(conn, self_test_query(self._topology)):
            yield f"shard {shard} gives keys other buckets than it should. {identity.NOT_INSTALLED_HINT}"

    async def _server(self, shard: str) -> AsyncIterator[str]:
        version, wal_level, slots, senders, workers, standby = (await rows(self._conns[shard], _SERVER))[0]
        if version < 150000:
            yield f"shard {shard} runs PostgreSQL {version // 10000}: rows are moved from 15 on"
        if wal_level != "logical":
            yield f"shard {shard} has wal_level = {wal_level}: set it to logical, and restart the server"
        for name, left in (
            ("max_replication_slots", slots),
            ("max_wal_senders", senders),
            ("max_logical_replication_workers", workers),
        ):
            if left < 1:
                yield f"shard {shard} has none of its {name} left: raise it, and restart the server"
        if standby:
            yield f"the server of shard {shard} is a standby"
        for endpoint in self._topology.shards[shard].endpoints:
            if endpoint.pooler == "transaction":
                yield (
                    f"{shard}.{endpoint.name} is behind a transaction pooler: nobody sees which epoch its clients work "
                    "by. Have routers and the mover reach the server itself while rows move"
                )

    async def _role(self, shard: str) -> AsyncIterator[str]:
        conn = self._conns[shard]
        version = conn.info.server_version
        if version < 150000:
            return
        role, superuser, replicates, creates, sets = (await rows(conn, _ROLE))[0]
        if not replicates:
            yield f"role {role} on shard {shard} may not replicate: ALTER ROLE {role} REPLICATION"
        if not creates:
            yield f"role {role} on shard {shard} may not create publications: GRANT CREATE ON DATABASE … TO {role}"
        if not sets:
            yield (
                f"role {role} on shard {shard} may not write past triggers: "
                f"GRANT SET ON PARAMETER session_replication_role TO {role}"
            )
        if version < 160000 and not superuser:
            yield f"role {role} on shard {shard} is no superuser: only those subscribe before PostgreSQL 16"
        if version >= 160000 and not superuser and not await one(conn, _SUBSCRIBER):
            yield f"role {role} on shard {shard} may not subscribe: GRANT pg_create_subscription TO {role}"
        if not await one(conn, guard.SEES_SESSIONS):
            yield f"role {role} on shard {shard} does not see other sessions: GRANT pg_read_all_stats TO {role}"
        if not superuser and (mighty := await rows(conn, _SUPERUSERS, ([r for r in self._roles if r != role],))):
            yield (
                f"routers connect to shard {shard} as {', '.join(name for (name,) in mighty)}, a superuser, "
                f"whose sessions {role} cannot end"
            )

    async def _sessions(self, shard: str) -> AsyncIterator[str]:
        conn = self._conns[shard]
        for gid, seconds in await rows(conn, _PREPARED, (_UNDECIDED,)):
            yield f"transaction {gid} on shard {shard} was prepared {seconds} s ago, and is not decided"
        if self._terminate or not await one(conn, guard.SEES_SESSIONS):
            return
        for straggler in await stale_sessions(conn, shard, 1, self._roles):
            yield (
                f"{straggler}: it is of an older shardpool, or of a program that uses the routers' role. Have it end, "
                "or say --stragglers terminate"
            )

    async def _tables(self) -> AsyncIterator[str]:
        source, target = self._conns[self._move.source], self._conns[self._move.target]
        for record in await records(source):
            if record.step in ("finishing", "aborting") and record.number not in self._topology.moves:
                word = "finish" if record.step == "finishing" else "abort"
                yield f"move {record.number} is not tidied up yet: shardpool move {word} {record.number}"
        names = [*guard.tables_of(self._topology, self._move)]
        for name in names:
            here, there = await read_table(source, name), await read_table(target, name)
            shown = name.removeprefix("public.")
            if here is None:
                yield f"table {shown} is not on shard {self._move.source}"
            if there is None:
                yield f"table {shown} is not on shard {self._move.target}: create it there, as it is on the others"
            if here is None or there is None:
                continue
            self.here.append(here)
            wrong = [*_table_problems(here, there, self._move)]
            for problem in wrong:
                yield problem
            if not wrong:
                async for problem in self._rows(here, target):
                    yield problem
                async for problem in self._ids(here, source, target):
                    yield problem
            for shard, conn in ((self._move.source, source), (self._move.target, target)):
                owner = (here if conn is source else there).owner
                if not await one(conn, "select pg_catalog.pg_has_role(%s, 'usage')", (owner,)):
                    yield f"table {shown} on shard {shard} belongs to {owner}: GRANT {owner} TO the role that moves it"
        async for problem in self._ties(source, names):
            yield problem

    async def _rows(self, table: MovedTable, target: Conn) -> AsyncIterator[str]:
        condition = tables.of_move(self._topology, self._move, table.name)
        if await one(target, f"select exists (select from {table.quoted} where {condition})"):
            yield (
                f"shard {self._move.target} has rows of {table.shown} that belong to what moves: look at them, and "
                "delete them"
            )

    async def _ids(self, table: MovedTable, source: Conn, target: Conn) -> AsyncIterator[str]:
        """Primary keys without the partition key have to be unique over the fleet."""
        placement = self._topology.placements[table.name]
        if not isinstance(placement, Sharded):
            return
        names = {column.name for column in table.primary_key}
        if set(placement.key_columns) <= names:
            return
        for column in table.primary_key:
            arguments = (quote_table(table.name), column.name)
            here, there = await rows(source, SEQUENCE, arguments), await rows(target, SEQUENCE, arguments)
            if here and there and not _apart(here[0], there[0]):
                yield (
                    f"{table.shown}.{column.name} is the primary key, and both shards give the same numbers to new "
                    "rows: use uuid, or a sequence with ranges or steps of each shard's own"
                )

    async def _ties(self, source: Conn, names: Sequence[str]) -> AsyncIterator[str]:
        placements = self._topology.placements
        for child, parent in await rows(source, _TIES):
            if parent in names and child not in names:
                yield f"rows of {child} refer to rows of {parent}, and would stay: place both by the same key"
            elif child in names and parent not in names and parent not in self._topology.reference_tables:
                where = "is not in the topology" if parent not in placements else "does not move along"
                yield f"rows of {child} refer to rows of {parent}, which {where}"


def _table_problems(here: MovedTable, there: MovedTable, move: RunningMove) -> list[str]:
    """What is wrong with a table on one side, or between the two."""
    problems = []
    mine = {(column.name, column.type, column.generated) for column in here.columns}
    theirs = {(column.name, column.type, column.generated) for column in there.columns}
    if mine != theirs:
        names = ", ".join(sorted({name for name, _, _ in mine ^ theirs}))
        problems.append(f"table {here.shown} differs between {move.source} and {move.target}: {names}")
    for shard, table in ((move.source, here), (move.target, there)):
        if not table.primary_key:
            problems.append(f"table {here.shown} on shard {shard} has no primary key, by which changes find their rows")
        if "n" in table.identities:
            problems.append(
                f"table {here.shown} on shard {shard} has no replica identity: ALTER TABLE … REPLICA IDENTITY DEFAULT"
            )
        if table.is_lost_in_a_crash:
            problems.append(f"table {here.shown} on shard {shard} is unlogged: ALTER TABLE … SET LOGGED")
    if [column.name for column in here.primary_key] != [column.name for column in there.primary_key]:
        problems.append(f"table {here.shown} has another primary key on {move.target} than on {move.source}")
    return problems


def _apart(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two sequences never give the same number."""
    (step, least, most, last, _), (step2, least2, most2, last2, _) = one, other
    if most < least2 or most2 < least:
        return True
    return bool(step == step2 and abs(step) > 1 and (last - last2) % abs(step))
