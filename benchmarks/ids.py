"""Ids from sequences: what one costs by blocks, and an INSERT that the router numbers, against one of its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg

from shardpool import Router
from shardpool._runtime.deadlines import NEVER

from .fleet import Fleet
from .harness import Effort, Measured, joined, measure, repeat
from .query import AUTOCOMMIT
from .rows import Row, alone, compare

_MAKE = """
    drop table if exists numbered;
    create unlogged table numbered (tenant_id bigint not null, id bigserial, note text)
"""
_SEQUENCE = "public.numbered_id_seq"
_INSERT = "insert into numbered (tenant_id, note) values (%s, %s) returning id"
_GIVEN = "insert into numbered (tenant_id, note, id) values (%s, %s, %s) returning id"
_TENANT = 7
# Ids that are drawn at once: several blocks.
_DRAWN = 4000


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    for database in fleet.databases[:4]:
        with psycopg.connect(database.conninfo, autocommit=True) as conn:
            conn.execute(_MAKE)
    topology = fleet.topology(4)
    keyspace = topology.keyspaces["items"]
    tables = {**keyspace.tables, "public.numbered": ("tenant_id",)}
    topology = replace(topology, keyspaces={"items": replace(keyspace, tables=tables)})
    with Router(topology, kwargs=AUTOCOMMIT) as router:
        yield from _drawing(effort, router)
        yield from _inserting(effort, router)


def _drawing(effort: Effort, router: Router) -> Iterator[Row]:
    """One id after the other, with all that drawing the blocks takes."""
    router.execute(_INSERT, (_TENANT, "first"))
    numbers, until = router._planner.schema.numbers, NEVER
    owner = router.shard(router.topology.numbering_shard)

    def by_blocks() -> None:
        for _ in range(_DRAWN):
            numbers.take(_SEQUENCE, 1, until)

    samples = {
        "block": lambda: repeat(by_blocks, 1)() / _DRAWN,
        "nextval": repeat(lambda: owner.execute("select nextval('numbered_id_seq')").one(), 20),
    }
    found = measure(samples, effort, rounds=60, seconds=6)
    yield alone("ids", "an id, in blocks of 1000, draws included", found["block"], 1e-6)
    yield compare("ids", "an id, in blocks of 1000", found["block"], found["nextval"], "nextval() of one server")


def _inserting(effort: Effort, router: Router) -> Iterator[Row]:
    """An INSERT by its key with RETURNING id."""

    def once() -> dict[str, Measured]:
        route = router.for_key(_TENANT)
        route.execute(_INSERT, (_TENANT, "x"))
        router.execute(_INSERT, (_TENANT, "x"))
        pool: Any = router._fleet.snapshot.shards[route.shard].primary._inner.current

        def bare() -> Any:
            with pool.connection() as conn:
                return conn.execute(_INSERT, (_TENANT, "x")).fetchall()

        operations: dict[str, Callable[[], Any]] = {
            "numbered": lambda: router.execute(_INSERT, (_TENANT, "x")).rows,
            "given": lambda: router.execute(_GIVEN, (_TENANT, "x", _TENANT)).rows,
            "pool": bare,
        }
        samples = {name: repeat(operation, 10) for name, operation in operations.items()}
        return measure(samples, effort, rounds=300, seconds=5)

    found = joined(once() for _ in range(effort.pick(3, 1)))
    ours, pool, given = found["numbered"], found["pool"], found["given"]
    yield compare("ids", "INSERT … RETURNING id by its key", ours, pool, "pool, numbered by the server")
    added = Measured(tuple(a - b for a, b in zip(ours.seconds, given.seconds, strict=True)))
    yield alone("ids", "added to an INSERT that gives the id", Measured((max(added.median, 0.0),)), 8e-6)
