"""The stream from one shard to the other: publication and slot on the one, subscription on the other.

A stream is known by its direction, so that those of both directions of a move are there side by side. What is made is
looked at first: each of these may be called again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from ..control import guard
from ..errors import MoveRefused
from ..hashing import murmur3
from ..operations.connections import Conn, one, rows
from ..quoting import quote_literal
from ..topology import Endpoint, RunningMove, Topology
from .links import ident
from .tables import MovedTable

# What of a topology's connection settings means the same to another server.
_FOR_SERVERS = (
    "host hostaddr port dbname user sslmode sslrootcert sslnegotiation ssl_min_protocol_version "
    "channel_binding require_auth gssencmode connect_timeout"
).split()
# Seconds that a worker has to end, and a slot to be left.
_ENDING = 20.0
_PATIENT = 2.0


@dataclass(frozen=True, slots=True)
class MoveStream:
    """The rows of a move on their way from one shard to another; publication, slot and subscription have its name."""

    name: str
    source: str
    target: str


def stream(topology: Topology, move: RunningMove, source: str, target: str) -> MoveStream:
    """The stream of a move in one direction. Slots are known to a whole server: the name has the fleet's in it."""
    number = murmur3(f"{topology.fleet}/{source}>{target}".encode())
    return MoveStream(f"shardpool_{move.number}_{number:08x}", source, target)


def forward(topology: Topology, move: RunningMove) -> MoveStream:
    """From who owned the rows to who will."""
    return stream(topology, move, move.source, move.target)


def backward(topology: Topology, move: RunningMove) -> MoveStream:
    """From who will own the rows to who owned them, for a way back."""
    return stream(topology, move, move.target, move.source)


async def publish(conn: Conn, of: MoveStream, move: RunningMove, tables: list[MovedTable]) -> None:
    """Publish the tables of a move with its token and its marker; TRUNCATE is never sent."""
    if await one(conn, "select exists (select from pg_catalog.pg_publication where pubname = %s)", (of.name,)):
        return
    own = [f"shardpool.token WHERE (move = {move.number})", f"shardpool.marker WHERE (move = {move.number})"]
    listed = ", ".join([*(table.quoted for table in tables), *own])
    await conn.execute(
        f"CREATE PUBLICATION {ident(of.name)} FOR TABLE {listed}\n"
        "WITH (publish = 'insert, update, delete', publish_via_partition_root = true)"
    )


async def publish_token(conn: Conn, of: MoveStream, move: RunningMove) -> None:
    """Publish the token by itself, to find it in the slot: before the slot, which knows what is there then only."""
    if await one(conn, "select exists (select from pg_catalog.pg_publication where pubname = %s)", (_token_of(of),)):
        return
    await conn.execute(
        f"CREATE PUBLICATION {ident(_token_of(of))} FOR TABLE shardpool.token WHERE (move = {move.number})\n"
        "WITH (publish = 'update')"
    )


async def behind_token(conn: Conn, of: MoveStream) -> str | None:
    """Where the log goes on after the token came, by what the slot holds; None where it has not.

    Messages: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
    """
    messages = await rows(
        conn,
        "select data from pg_catalog.pg_logical_slot_peek_binary_changes(%s, null, null, 'proto_version', '1', "
        "'publication_names', %s)",
        (of.name, _token_of(of)),
    )
    came = False
    for (message,) in messages:
        data = bytes(message)
        came = came or data[:1] == b"U"
        if came and data[:1] == b"C":
            end = int.from_bytes(data[10:18], "big")
            return f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"
    return None


async def is_behind(conn: Conn, of: MoveStream, lsn: str) -> bool:
    """Whether a slot has left out all before this place of the log."""
    query = "select confirmed_flush_lsn >= %s::pg_lsn from pg_catalog.pg_replication_slots where slot_name = %s"
    return bool(await one(conn, query, (lsn, of.name)))


async def skip(conn: Conn, of: MoveStream, lsn: str) -> None:
    """Leave all out of a slot that was written before this place of the log.

    Until the token came, what was applied came from the other shard, and would go back there: before PostgreSQL 16
    nothing else keeps it from that.
    """
    if not await is_behind(conn, of, lsn):
        await conn.execute("select pg_catalog.pg_replication_slot_advance(%s, %s::pg_lsn)", (of.name, lsn))


def _token_of(of: MoveStream) -> str:
    return f"{of.name}_token"


async def subscribe(conn: Conn, of: MoveStream, server: str, *, version: int) -> None:
    """Apply what the slot holds, and never send it back; `server` says how the source is reached from here."""
    if await is_subscribed(conn, of):
        await conn.execute(f"ALTER SUBSCRIPTION {ident(of.name)} ENABLE")
        return
    options = f"create_slot = false, slot_name = {quote_literal(of.name)}, copy_data = false, streaming = off"
    if version >= 160000:
        options += ", origin = none"
    statement = f"CREATE SUBSCRIPTION {ident(of.name)} CONNECTION {quote_literal(server)} "
    try:
        await conn.execute(f"{statement} PUBLICATION {ident(of.name)} WITH ({options})")
    except psycopg.Error as error:
        # Nothing is chained: the statement holds a password.
        refusal = MoveRefused(
            f"shard {of.target} cannot subscribe to shard {of.source}",
            detail=str(error.diag.message_primary or type(error).__name__),
            hint="The servers reach each other by the addresses of the topology, or by --address SHARD=HOST:PORT. "
            "The password goes along; files of certificates are looked for on the server.",
        )
    else:
        return
    raise refusal


async def is_subscribed(conn: Conn, of: MoveStream) -> bool:
    """Whether the subscription is there."""
    query = """
        select exists (select from pg_catalog.pg_subscription s join pg_catalog.pg_database d on d.oid = s.subdbid
          where s.subname = %s and d.datname = pg_catalog.current_database())
    """
    return bool(await one(conn, query, (of.name,)))


async def has_slot(conn: Conn, of: MoveStream) -> bool:
    """Whether the slot is there."""
    query = "select exists (select from pg_catalog.pg_replication_slots where slot_name = %s)"
    return bool(await one(conn, query, (of.name,)))


async def make_slot(conn: Conn, of: MoveStream) -> None:
    """A slot that holds what is written from now on. Waits for the transactions that run."""
    if not await has_slot(conn, of):
        await conn.execute("select pg_catalog.pg_create_logical_replication_slot(%s, 'pgoutput')", (of.name,))


async def unsubscribe(conn: Conn, of: MoveStream) -> None:
    """No subscription any more; its slot stays where it is, so that no other server is asked."""
    if not await is_subscribed(conn, of):
        return
    await conn.execute(f"ALTER SUBSCRIPTION {ident(of.name)} DISABLE")
    await conn.execute(f"ALTER SUBSCRIPTION {ident(of.name)} SET (slot_name = NONE)")
    await conn.execute(f"DROP SUBSCRIPTION {ident(of.name)}")


async def unpublish(conn: Conn, of: MoveStream) -> None:
    """No slot and no publication any more, after the subscription has gone."""
    end = monotonic() + _ENDING
    while await has_slot(conn, of):
        active = await rows(
            conn, "select active_pid from pg_catalog.pg_replication_slots where slot_name = %s", (of.name,)
        )
        if active and active[0][0] is None:
            await conn.execute("select pg_catalog.pg_drop_replication_slot(%s)", (of.name,))
            break
        if monotonic() >= end:
            raise MoveRefused(
                f"the slot {of.name} on shard {of.source} is in use", hint="Run it again when its reader has ended."
            )
        await asyncio.sleep(0.05)
    for name in (of.name, _token_of(of)):
        await conn.execute(f"DROP PUBLICATION IF EXISTS {ident(name)}")


async def pause(conn: Conn, of: MoveStream) -> None:
    """Apply nothing for now; what is written waits in the slot. Returns when its worker has ended.

    One that waits for a lock does not hear that it is to end: it is ended after a while.
    """
    if not await is_subscribed(conn, of):
        return
    await conn.execute(f"ALTER SUBSCRIPTION {ident(of.name)} DISABLE")
    begun = monotonic()
    query = "select pid from pg_catalog.pg_stat_subscription where subname = %s and pid is not null"
    while workers := await rows(conn, query, (of.name,)):
        if monotonic() - begun >= _ENDING:
            raise MoveRefused(f"the worker of subscription {of.name} on shard {of.target} does not end")
        if monotonic() - begun >= _PATIENT:
            for (pid,) in workers:
                await conn.execute("select pg_catalog.pg_terminate_backend(%s)", (pid,))
        await asyncio.sleep(0.05)


def server_address(endpoint: Endpoint, password: str | None, instead: str | None) -> str:
    """How a server reaches another: libpq's connection string, with the password in it."""
    params: dict[str, Any] = {key: value for key, value in endpoint.params if key in _FOR_SERVERS}
    if instead is not None:
        host, _, port = instead.rpartition(":")
        params |= {"host": host.strip("[]"), "port": port}
        params.pop("hostaddr", None)
    if password is not None:
        params["password"] = password
    return make_conninfo("", **params)


async def slot(conn: Conn, of: MoveStream) -> tuple[int, int] | None:
    """Bytes of log that the slot keeps, and of those that are not applied yet; None where there is no slot."""
    slots = await rows(
        conn,
        "select pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint, "
        "pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), confirmed_flush_lsn)::bigint "
        "from pg_catalog.pg_replication_slots where slot_name = %s",
        (of.name,),
    )
    return (int(slots[0][0] or 0), int(slots[0][1] or 0)) if slots else None


async def apply_errors(conn: Conn, of: MoveStream) -> int:
    """How often applying has failed, as the server of the subscription counts."""
    query = "select coalesce(sum(apply_error_count), 0) from pg_catalog.pg_stat_subscription_stats where subname = %s"
    return int(await one(conn, query, (of.name,)))


async def send_marker(conn: Conn, number: int) -> int:
    """Send a number after all that is written; gives it."""
    query = """
        insert into shardpool.marker values (%s, 1) on conflict (move) do update set n = marker.n + 1 returning n
    """
    return int(await one(conn, query, (number,)))


async def await_marker(conn: Conn, number: int, n: int, seconds: float) -> float | None:
    """How many seconds it took to arrive, or None when it has not within so many."""
    begun = monotonic()
    pause = 0.001
    while True:
        markers = await rows(conn, "select n from shardpool.marker where move = %s", (number,))
        if markers and markers[0][0] >= n:
            return monotonic() - begun
        if monotonic() - begun >= seconds:
            return None
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.05)


def filters(topology: Topology, tables: list[MovedTable], shard: str) -> Mapping[str, str]:
    """Table → the statements by which the shard leaves out what no move brings to it; a single table has none."""
    return {
        table.name: guard.filter_statements(topology, table.name, shard)
        for table in tables
        if table.name not in topology.single_tables
    }
