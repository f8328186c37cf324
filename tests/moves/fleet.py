"""A fleet for moves, its rows, and sessions that work on them as routers do: they declare, and they guard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from shardpool import Topology, load_topology
from tests.commands import run
from tests.timing import SLACK, not_after

# A host that is gone with all its addresses says nothing: whoever waits for its answer has to ask.
_NOTICING = {"keepalives_idle": "3", "keepalives_interval": "2", "keepalives_count": "3", "tcp_user_timeout": "9000"}
COMMAND = [sys.executable, "-m", "shardpool"]


def connect(topology: Topology, shard: str, **more: str) -> psycopg.Connection[Any]:
    """A session in autocommit on a shard's primary."""
    endpoint = topology.shards[shard].primary
    assert endpoint.password_file is not None
    password = Path(endpoint.password_file).read_text()
    conninfo = make_conninfo("", **{**_NOTICING, **dict(endpoint.params), "password": password, **more})
    return psycopg.connect(conninfo, autocommit=True)


def own(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A session that is no router's, and is waited for by nobody."""
    conn.execute("select pg_catalog.pg_advisory_lock_shared(1936747624, 2147483647)")
    return conn


class Moves:
    """Runs `shardpool` in processes of their own, on a topology file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {**os.environ, "SHARDPOOL_TOPOLOGY": str(path)}

    @property
    def topology(self) -> Topology:
        return load_topology(self.path)

    def begin(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0, **more: str) -> str:
        done = run(arguments, env={**self.environment, **more}, timeout=600)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        self.stderr = done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))

    def query(self, shard: str, query: str, params: Any = None) -> list[tuple[Any, ...]]:
        with connect(self.topology, shard) as conn:
            return conn.execute(query, params).fetchall()

    def end_streams(self) -> None:
        """No subscription and no slot any more: with those no database can be dropped."""
        own = "datname = current_database()"
        for shard in self.topology.shards:
            with connect(self.topology, shard) as conn:
                subscriptions = (
                    f"select subname from pg_subscription s join pg_database d on d.oid = subdbid where {own}"
                )
                for (name,) in conn.execute(subscriptions).fetchall():
                    for statement in ("disable", "set (slot_name = none)"):
                        conn.execute(f"alter subscription {name} {statement}")
                    conn.execute(f"drop subscription {name}")
        for shard in self.topology.shards:
            with connect(self.topology, shard) as conn:
                slots = "select slot_name, active_pid from pg_replication_slots where database = current_database()"
                end = monotonic() + SLACK
                while found := conn.execute(slots).fetchall():
                    not_after(end)
                    for name, pid in found:
                        if pid is None:
                            conn.execute("select pg_drop_replication_slot(%s)", (name,))

    def left(self, shard: str) -> dict[str, list[Any]]:
        """What a move leaves behind on a shard, if it does."""
        database = "(select oid from pg_database where datname = current_database())"
        queries = {
            "publications": "select pubname from pg_publication",
            "subscriptions": f"select subname from pg_subscription where subdbid = {database}",
            "slots": "select slot_name from pg_replication_slots where database = current_database()",
            "triggers": "select tgname from pg_trigger where tgname ~ '^shardpool_(stale|change|filter|guard)'",
            "tokens": "select move from shardpool.token union all select move from shardpool.marker",
        }
        return {what: found for what, query in queries.items() if (found := self.query(shard, query))}


def keys_of(topology: Topology, keyspace: str, buckets: Sequence[int], count: int) -> list[int]:
    """So many keys of these buckets."""
    partitioning, wanted = topology.keyspaces[keyspace].partitioning, set(buckets)
    found: list[int] = []
    key = 0
    while len(found) < count:
        if partitioning.bucket(key) in wanted:
            found.append(key)
        key += 1
    return found
