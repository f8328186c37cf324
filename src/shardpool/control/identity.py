"""Who a server says it is, and whether it is the shard that a topology takes it for. Pure: SQL text out, rows in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import shown
from ..topology import Topology
from . import settings
from .agreement import other_maps, other_tables
from .own_sql import qualified
from .transactions import READY_QUERY

CONTROL_VERSION = 1
"""The version of the schema that this package installs."""

WORKS_WITH = frozenset({1})
"""The versions of the schema with which this package works. A newer one names the versions of the package, as
`meta.works_with`, that go on working with it: so servers and processes are upgraded in any order."""

NOT_INSTALLED_SQLSTATES = frozenset({"42P01", "3F000"})
"""What `IDENTITY_QUERY` fails with where the schema is missing: undefined_table, invalid_schema_name."""

NOT_INSTALLED_HINT = "Run: shardpool init"

IDENTITY_QUERY = qualified(f"""\
SELECT self.fleet, self.shard, meta.version,
  greatest((SELECT coalesce(pg_catalog.max(owner.epoch), 0) FROM shardpool.owner),
    (pg_catalog.to_jsonb(meta) ->> 'epoch'::pg_catalog.text)::bigint),
  (SELECT coalesce(pg_catalog.jsonb_object_agg(keyspace, contract - 'vectors'::pg_catalog.text), '{{}}')
    FROM shardpool.hash_contract),
  pg_catalog.pg_is_in_recovery(),
  (SELECT coalesce(pg_catalog.max(owner.epoch), 0) FROM shardpool.owner),
  pg_catalog.to_jsonb(self) ->> 'also'::pg_catalog.text,
  {settings.SETTINGS},
  (SELECT coalesce(pg_catalog.jsonb_object_agg(here.keyspace, CASE
      WHEN (pg_catalog.to_jsonb(here) -> 'maps'::pg_catalog.text -> 'epoch'::pg_catalog.text) = pg_catalog.to_jsonb(
        (SELECT coalesce(pg_catalog.max(owner.epoch), 0) FROM shardpool.owner WHERE owner.keyspace = here.keyspace))
      THEN pg_catalog.to_jsonb(here) -> 'maps'::pg_catalog.text -> 'digests'::pg_catalog.text
      ELSE (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(first_bucket, last_bucket, shard)
          ORDER BY first_bucket) FROM shardpool.owner WHERE owner.keyspace = here.keyspace) END), '{{}}')
    FROM shardpool.hash_contract AS here),
  coalesce(pg_catalog.to_jsonb(meta) -> 'works_with'::pg_catalog.text, '[]'),
  {READY_QUERY},
  coalesce((pg_catalog.to_jsonb(meta) ->> 'min_epoch'::pg_catalog.text)::bigint, 0),
  coalesce(pg_catalog.jsonb_strip_nulls(pg_catalog.to_jsonb(meta)) -> 'tables'::pg_catalog.text, '{{}}')
FROM shardpool.self CROSS JOIN shardpool.meta""")
"""One row, of the fields of `Identity`.

The columns that came later are read through JSON, so that a server that has not got them yet is no other shard.
"""


class Identity(NamedTuple):
    """A row of `IDENTITY_QUERY`: who a server says it is.

    `epoch` is the topology's, `owners_epoch` the highest of an owner (0: none), `also` another name of the shard.
    `contracts` are by keyspace, and so are `maps`: digests that routers may have (see `owner_map`), or, where a shard
    has none that are of its owners, these as [first bucket, last bucket, shard]. `settings` are the session's as
    `settings.SETTINGS` tells them, `works_with` the versions of the package that can use a newer schema, `takes_part`
    says whether the role can take part in transactions over several shards (see `transactions.READY_QUERY`).
    Sessions that work by an epoch below `min_epoch` are turned away. `tables` has by table where its rows are, as
    `agreement.placement_texts` writes it, and is empty where a shard does not know.
    """

    fleet: str
    shard: str
    version: int
    epoch: int
    contracts: Any
    is_standby: bool
    owners_epoch: int
    also: str | None
    settings: str
    maps: Any
    works_with: Any
    takes_part: str
    min_epoch: int
    tables: Any


STRANGE = "what it says of itself is not what a shard says"


def is_strange(row: Sequence[Any] | None) -> bool:
    """Whether a row of `IDENTITY_QUERY` is not of the shape that a shard gives: the schema may be somebody else's."""
    if row is None:
        return False
    here = Identity._make(row)
    values = (here.fleet, here.shard, here.settings, here.takes_part)
    numbers = (here.version, here.epoch, here.owners_epoch, here.min_epoch)
    by_keyspace = (*_values(here.contracts, dict), *_values(here.maps, list), *_values(here.tables, list))
    return not (
        all(isinstance(one, str) for one in values)
        and all(isinstance(one, int) for one in numbers)
        and all(by_keyspace)
        and isinstance(_json(here.works_with), list)
    )


def _values(value: Any, kind: type) -> Iterator[bool]:
    """Whether a json column is an object, and each of its values of a kind."""
    decoded = _json(value)
    yield isinstance(decoded, dict)
    if isinstance(decoded, dict):
        yield from (isinstance(one, kind) for one in decoded.values())


def check_identity(row: Sequence[Any] | None, topology: Topology, shard_name: str) -> str | None:
    """What is wrong with the server that gave this row of `IDENTITY_QUERY`, and what to do; None when it is the shard.

    A keyspace that only one side knows is no fault. Whether its owners are the topology's is asked of `map_problem`.
    """
    if row is None:
        return f"the control schema of this server is empty. {NOT_INSTALLED_HINT}"
    if is_strange(row):
        return f"{STRANGE}. {NOT_INSTALLED_HINT}"
    here = Identity._make(row)
    if here.fleet != topology.fleet or shard_name not in (here.shard, here.also):
        return (
            f'this server is shard "{shown(here.shard)}" of fleet "{shown(here.fleet)}", '
            f'not shard "{shard_name}" of fleet "{topology.fleet}". Set its address right in the topology.'
        )
    if here.version not in WORKS_WITH and CONTROL_VERSION not in _json(here.works_with):
        todo = NOT_INSTALLED_HINT if here.version < CONTROL_VERSION else "Upgrade the shardpool package."
        return f"its control schema is of version {here.version}, and this router needs {CONTROL_VERSION}. {todo}"
    if here.owners_epoch > topology.epoch:
        return (
            f"its owners are of epoch {here.owners_epoch}, and this topology is of epoch {topology.epoch}. "
            "Reload the topology."
        )
    return _contract_problem(_json(here.contracts), topology)


def newer_epoch(row: Sequence[Any] | None, topology: Topology, shard_name: str) -> int | None:
    """The epoch of the server's map, when it is the shard and all that is wrong is that the topology is older."""
    if row is None:
        return None
    here = Identity._make(row)
    if here.fleet != topology.fleet or shard_name not in (here.shard, here.also):
        return None
    newest = max(here.owners_epoch, here.min_epoch)
    if newest > topology.epoch:
        return newest
    return here.epoch if here.epoch > topology.epoch and map_problem(row, topology) is not None else None


def other_keyspaces(row: Sequence[Any], topology: Topology) -> tuple[str, ...]:
    """The keyspaces of which a shard has another map than the topology."""
    here = Identity._make(row)
    return tuple(other.keyspace for other in other_maps(_json(here.maps), here.epoch, topology))


def map_problem(row: Sequence[Any], topology: Topology) -> tuple[str, str] | None:
    """What a shard has otherwise than the topology, and what to do; None when both send every row to the same shard."""
    here = Identity._make(row)
    epoch = here.epoch
    others = [str(other) for other in other_maps(_json(here.maps), epoch, topology)]
    others += other_tables(_json(here.tables), topology)
    if not others:
        return None
    if epoch == topology.epoch:
        others.append(f"both are of epoch {epoch}")
        todo = "One of them was changed by hand. Undo that, and make the change with: shardpool topology apply COPY"
    else:
        others.append(f"the shard is of epoch {epoch}, the topology of epoch {topology.epoch}")
        todo = "Make the change with: shardpool topology apply COPY. Where all of the file is right: shardpool init"
    return "; ".join(others), todo


def tells_maps(row: Sequence[Any]) -> bool:
    """Whether the shard knows which maps are right, rather than its owners alone."""
    return all(maps and isinstance(maps[0], str) for maps in _json(Identity._make(row).maps).values())


def _json(value: Any) -> Any:
    """What json columns are, whether or not psycopg was told to leave them as text."""
    return json.loads(value) if isinstance(value, str | bytes) else value


def _contract_problem(contracts: Mapping[str, Any], topology: Topology) -> str | None:
    for name, keyspace in topology.keyspaces.items():
        there, here = contracts.get(name), keyspace.partitioning.contract()
        if there is not None and there != here:
            differing = [fact for fact in here.keys() | there.keys() if here.get(fact) != there.get(fact)]
            facts = ", ".join(
                f"{shown(fact)} {shown(repr(there.get(fact)))}, not {here.get(fact)!r}" for fact in sorted(differing)
            )
            return (
                f'it places the keys of keyspace "{name}" in another way: {facts}. '
                "Set the topology back to what the rows were placed by."
            )
    return None
