"""A topology read, swapped in and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from shardpool import Router, Topology, parse_topology

from .fleet import BUCKETS, Fleet
from .harness import Effort, Sample, measure, repeat
from .rows import Row, alone

_SHARDS = 64
_TARGETS = {f"parse {_SHARDS} shards, {BUCKETS} entries": 0.150}


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    text = scattered_file()
    big = parse_topology(text)
    with Router(fleet.topology()) as router, Router(big) as big_router:
        router.scatter("select 1")
        samples: dict[str, Sample] = {
            f"parse {_SHARDS} shards, {BUCKETS} entries": repeat(lambda: parse_topology(text), 1),
            "reload, 4 shards": _reload(router),
            f"reload, {_SHARDS} shards, {BUCKETS} entries": _reload(big_router),
            "check(rows=False), 4 shards": repeat(lambda: router.check(rows=False), 1),
        }
        found = measure(samples, effort, rounds=30, seconds=20)
    for name, measured in found.items():
        yield alone("topology", name, measured, _TARGETS.get(name))


def scattered_file() -> str:
    """The worst that many moves make of a file: every bucket an entry of its own."""
    shards = "".join(f"  s{at}: {{primary: {{host: pg-{at}.internal, dbname: shop}}}}\n" for at in range(_SHARDS))
    owners = "".join(f"        s{at}: [{', '.join(map(str, range(at, BUCKETS, _SHARDS)))}]\n" for at in range(_SHARDS))
    return (
        "version: 1\nfleet: shop\nepoch: 1\ncontrol: none\n"
        f"shards:\n{shards}"
        "keyspaces:\n  tenants:\n    key: bigint\n    hash:\n      function: murmur3\n"
        f"      buckets: {BUCKETS}\n      owners:\n{owners}"
        "    tables: {orders: tenant_id}\n"
    )


def _reload(router: Router) -> Sample:
    """The same fleet at the next epoch, already read: comparing, and making every route anew."""

    def reload() -> Topology:
        return router.reload(replace(router.topology, epoch=router.topology.epoch + 1))

    return repeat(reload, 1)
