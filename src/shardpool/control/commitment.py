"""What a shard needs for transactions over several shards, as findings of `check`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from ..report import Finding
from ..topology import Endpoint, Topology
from .own_sql import qualified

# Routers end what was left within two minutes: what is older waits for something.
_OLD = timedelta(minutes=5)
_HOW = "See docs/howto/transactions.md."

COMMITMENT = qualified("""
    select pg_catalog.current_setting('max_prepared_transactions')::pg_catalog.int4,
      pg_catalog.current_setting('synchronous_standby_names'),
      (select pg_catalog.max(pg_catalog.clock_timestamp() - prepared) from pg_catalog.pg_prepared_xacts
        where database = pg_catalog.current_database() and pg_catalog.starts_with(gid, %s))
""")
"""A row (prepared transactions that there may be, standbys that are waited for, age of the fleet's oldest part)."""


def commitment_findings(row: Sequence[Any], topology: Topology, shard: str, endpoint: Endpoint) -> Iterator[Finding]:
    """What stands against them on a shard's primary; nothing in a fleet of one shard."""
    if len(topology.shards) == 1:
        return
    most, standbys, age = row
    subject = f"{shard}/{endpoint.name}"
    if most == 0:
        yield Finding(
            "warning",
            subject,
            "takes no part in transactions over several shards: max_prepared_transactions is 0",
            "Set it, to the connections of all routers at least, and restart the server.",
        )
    elif most < endpoint.pool.max_size:
        yield Finding(
            "warning",
            subject,
            f"may refuse transactions over several shards: max_prepared_transactions is {most}, and one router alone "
            f"has up to {endpoint.pool.max_size} connections",
            "Set it to the connections of all routers at least, and restart the server.",
        )
    if age is not None and age > _OLD:
        yield Finding(
            "warning",
            subject,
            f"holds a part of a transaction over several shards that is undecided since {age.total_seconds():,.0f} s",
            "See: shardpool transactions list",
        )
    if most and not standbys and topology.shards[shard].replicas:
        yield Finding(
            "warning",
            subject,
            "may lose decisions of transactions over several shards when it fails over: no standby is waited for "
            "(synchronous_standby_names is empty)",
            f"Set synchronous_standby_names where the halves of such a transaction must not part. {_HOW}",
        )
