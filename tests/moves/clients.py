"""Clients that work as routers do, by the SQL of the shards alone: they declare, guard, and go where they are sent.

Each keeps a record of what was acknowledged, by which every row is looked at afterwards.
"""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

import psycopg

from shardpool import Topology, load_topology
from shardpool.control import guard

from .fleet import connect

# Seconds after which a unit that nobody takes is a failure of the move.
_PATIENCE = 90.0
_ISOLATIONS = ("read committed", "repeatable read", "serializable")


class Ledger:
    """Key → the last acknowledged version, and that of a write whose outcome is not known."""

    def __init__(self, keys: list[int]) -> None:
        self.keys = keys
        self.acknowledged = dict.fromkeys(keys, 0)
        self.uncertain: dict[int, set[int]] = {key: set() for key in keys}
        self.stale_reads: list[str] = []
        self.wrong: list[str] = []
        self.reads = self.writes = 0
        self.lock = Lock()


class Client(Thread):
    """Works on its own keys until it is told to stop; `guards` off is the control: it must be found out.

    One without keys reads those of all others. It looks at the file every `lag` seconds.
    """

    def __init__(self, path: Path, ledger: Ledger, mine: list[int], *, guards: bool = True, lag: float = 0.0) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._ledger = ledger
        self._mine = mine
        self._guards = guards
        self._lag = lag
        self._looked = monotonic()
        self._stop_now = Event()
        self._conns: dict[str, tuple[psycopg.Connection[Any], int]] = {}
        self._topology: Topology = load_topology(path)
        self._stamp = path.stat().st_mtime_ns
        self._learnt: dict[int, tuple[str, int]] = {}
        self._turn = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                if not self._mine:
                    self._read(random.choice(self._ledger.keys))
                    self._refresh()
                for key in self._mine:
                    self._turn += 1
                    self._write(key)
                    self._read(key)
                    # As a pool does in the background: what lies idle is declared anew, too.
                    self._refresh()
                    self._stop_now.wait(0.002)
        except BaseException as error:
            self.failure = error
        finally:
            for conn, _ in self._conns.values():
                conn.close()

    def stop(self) -> None:
        self._stop_now.set()
        self.join(_PATIENCE)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure

    # -- units -----------------------------------------------------------------------------------------------------

    def _write(self, key: int) -> None:
        version = self._ledger.acknowledged[key] + 1
        isolation = _ISOLATIONS[self._turn % 3]

        def unit(conn: psycopg.Connection[Any], move: int | None) -> None:
            with conn.transaction():
                conn.execute(f"set transaction isolation level {isolation}")
                if move is not None:
                    conn.execute(guard.GUARD, (move,), prepare=False)
                found = conn.execute(
                    "update ledger set version = %s where tenant_id = %s", (version, key), prepare=False
                ).rowcount
                if found != 1:
                    self._ledger.wrong.append(f"key {key}: {found} rows updated on {conn.info.port}")

        known = self._done(key, unit)
        with self._ledger.lock:
            self._ledger.writes += 1
            if known:
                self._ledger.acknowledged[key] = version
            else:
                self._ledger.uncertain[key].add(version)

    def _read(self, key: int) -> None:
        before = self._ledger.acknowledged[key]

        def unit(conn: psycopg.Connection[Any], move: int | None) -> None:
            with conn.transaction():
                if move is not None:
                    conn.execute(guard.GUARD_READ, (move,), prepare=False)
                row = conn.execute("select version from ledger where tenant_id = %s", (key,), prepare=False).fetchone()
            if row is None or row[0] < before:
                self._ledger.stale_reads.append(f"key {key}: {row} after {before} was acknowledged")

        if self._done(key, unit):
            self._ledger.reads += 1

    def _done(self, key: int, unit: Any) -> bool:
        """Make a unit where its key is, and again where it is refused; False: its outcome is not known."""
        end = monotonic() + _PATIENCE
        while monotonic() < end:
            self._refresh()
            shard, move = self._route(key)
            try:
                conn = self._connection(shard)
            except (psycopg.OperationalError, _Refused):
                self._stop_now.wait(0.02)
                continue
            begun = False
            try:
                begun = True
                unit(conn, move if self._guards else None)
                return True
            except psycopg.Error as error:
                state = error.sqlstate or ""
                if state == "RS001":
                    self._learn(move, error)
                elif state not in ("40001", "40P01"):
                    self._drop(shard)
                    # Before the COMMIT was sent nothing was done; which it was is not known here.
                    if begun:
                        return False
        raise AssertionError(f"nobody takes key {key}")

    # -- where -----------------------------------------------------------------------------------------------------

    def _route(self, key: int) -> tuple[str, int | None]:
        space = self._topology.keyspaces["tenants"]
        bucket = space.partitioning.bucket(key)
        move = space.move_by_bucket.get(bucket)
        if move is None or move.state != "guarded":
            return space.shard_by_bucket[bucket], None
        return self._learnt.get(move.number, (move.source, 0))[0], move.number

    def _learn(self, move: int | None, error: psycopg.Error) -> None:
        owner, _, epoch = str(error.diag.message_detail or "").partition(" ")
        if move is not None and epoch.isdigit() and int(epoch) > self._learnt.get(move, ("", 0))[1]:
            self._learnt[move] = (owner, int(epoch))
            return
        self._stop_now.wait(0.002)

    def _refresh(self) -> None:
        if monotonic() - self._looked < self._lag:
            return
        self._looked = monotonic()
        stamp = self._path.stat().st_mtime_ns
        if stamp != self._stamp:
            self._topology, self._stamp = load_topology(self._path), stamp
        for shard, (conn, epoch) in [*self._conns.items()]:
            if epoch < self._topology.epoch:
                try:
                    conn.execute(guard.REDECLARE, (self._topology.epoch, epoch))
                    self._conns[shard] = (conn, self._topology.epoch)
                except psycopg.Error:
                    self._drop(shard)

    def _connection(self, shard: str) -> psycopg.Connection[Any]:
        if shard not in self._conns:
            conn = connect(self._topology, shard)
            epoch = self._topology.epoch
            conn.execute(guard.DECLARE, (epoch,))
            row = conn.execute("select min_epoch from shardpool.meta").fetchone()
            if row is None or row[0] > epoch:
                conn.close()
                raise _Refused
            self._conns[shard] = (conn, epoch)
        return self._conns[shard][0]

    def _drop(self, shard: str) -> None:
        conn, _ = self._conns.pop(shard)
        with suppress(psycopg.Error):
            conn.close()


class _Refused(Exception):
    """The shard lets in only those who work by a later epoch."""


class Load:
    """Several clients at work for the time of a block; afterwards every key is looked at."""

    def __init__(self, path: Path, keys: list[int], clients: int = 3, *, guards: bool = True, lag: float = 0.0) -> None:
        self.ledger = Ledger(keys)
        self._path = path
        self._clients = [Client(path, self.ledger, keys[number::clients], guards=guards) for number in range(clients)]
        if lag:
            # Who only reads is told by nobody but the guard.
            self._clients += [Client(path, self.ledger, [], guards=guards, lag=lag) for _ in range(2)]
        topology = load_topology(path)
        space = topology.keyspaces["tenants"]
        for shard in space.shard_names():
            mine = [(key,) for key in keys if space.shard_by_bucket[space.partitioning.bucket(key)] == shard]
            with connect(topology, shard) as conn, conn.cursor() as cursor:
                cursor.executemany("insert into ledger values (%s, 0)", mine)

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.stop()

    def check_so_far(self) -> None:
        """Nothing was read as it was before, and no write met more or less than its row."""
        assert self.ledger.stale_reads == []
        assert self.ledger.wrong == []

    def check(self) -> None:
        """Nothing was lost, doubled, or read as it was before."""
        ledger, topology = self.ledger, load_topology(self._path)
        self.check_so_far()
        assert ledger.writes > 0 and ledger.reads > 0
        space = topology.keyspaces["tenants"]
        rows: dict[str, dict[int, list[int]]] = {}
        for shard in topology.shards:
            found: dict[int, list[int]] = {}
            with connect(topology, shard) as conn:
                for key, version in conn.execute("select tenant_id, version from ledger"):
                    found.setdefault(key, []).append(version)
            rows[shard] = found
        for key in ledger.keys:
            bucket = space.partitioning.bucket(key)
            owner = space.shard_by_bucket[bucket]
            last, maybe = ledger.acknowledged[key], ledger.uncertain[key]
            versions = rows[owner].get(key, [])
            assert len(versions) == 1, f"key {key} is {len(versions)} times on {owner}"
            assert versions[0] == last or versions[0] in maybe, f"key {key}: {versions[0]}, acknowledged {last}"
            move = space.move_by_bucket.get(bucket)
            elsewhere = {shard for shard in rows if shard != owner and key in rows[shard]}
            assert elsewhere <= ({move.source, move.target} if move is not None else set())
