"""From a key to its route: `for_key`, by type of key, against the hash function alone."""

from __future__ import annotations

from collections.abc import Iterator
from timeit import Timer
from typing import Any
from uuid import UUID

import mmh3

from shardpool import Router, Topology
from shardpool.partitioning import Hash, KeyType
from shardpool.topology import Endpoint, Keyspace, OwnerRange, Shard

from .fleet import BUCKETS
from .harness import Effort, Sample, measure
from .rows import Row, Target, compare

_KEYS = 1000
_HASH = "mmh3 of 8 bytes"
# 0.5 µs for an int and 0.7 µs for a str, on a machine where the hash alone takes 45 ns.
_TARGETS = {"int": Target(most=500 / 45), "str of 16": Target(most=700 / 45)}


def run(effort: Effort) -> Iterator[Row]:
    cases: dict[str, tuple[Router, list[Any]]] = {
        "int": (_router("bigint"), list(range(10**9, 10**9 + _KEYS))),
        "str of 16": (_router("text"), [f"customer-{number:07}" for number in range(_KEYS)]),
        "uuid": (_router("uuid"), [UUID(int=number * 7919) for number in range(_KEYS)]),
        "tuple (int, str)": (_router("bigint", "text"), [(number, f"eu-{number}") for number in range(_KEYS)]),
    }
    samples = {name: _per_key("for_key(key)", keys, router, effort) for name, (router, keys) in cases.items()}
    router, keys = cases["int"]
    samples["int, table=…"] = _per_key("for_key(key, table='things')", keys, router, effort)
    samples["str of digits, coerced"] = _per_key("for_key(key)", list(map(str, keys)), router, effort)
    samples[_HASH] = _per_key("digest(key)", [b"12345678"] * _KEYS, router, effort)
    found = measure(samples, effort, rounds=60, seconds=20)
    for name, measured in found.items():
        if name != _HASH:
            yield compare("for_key", name, measured, found[_HASH], _HASH, _TARGETS.get(name))


def _per_key(statement: str, keys: list[Any], router: Router, effort: Effort) -> Sample:
    names = {"keys": keys, "for_key": router.for_key, "digest": mmh3.mmh3_32_uintdigest}
    timer = Timer(f"for key in keys: {statement}", globals=names)
    times = effort.pick(20, 5)
    return lambda: timer.timeit(times) / times / len(keys)


def _router(*key_types: KeyType) -> Router:
    """A router that connects nowhere."""
    names = [f"s{number}" for number in range(4)]
    shards = {name: Shard(name, Endpoint("primary", "primary", (("host", name),))) for name in names}
    quarter = BUCKETS // 4
    owners = tuple(OwnerRange(at * quarter, (at + 1) * quarter - 1, name, 1) for at, name in enumerate(names))
    columns = tuple(f"part_{number}" for number in range(len(key_types)))
    keyspace = Keyspace("things", Hash(key_types, "murmur3", BUCKETS), owners, {"public.things": columns})
    return Router(Topology("bench", 1, shards, {"things": keyspace}))
