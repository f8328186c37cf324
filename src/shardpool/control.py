"""What `shardpool init` installs on a shard, and what is asked of a shard before it is trusted.

Pure: SQL text out, rows in. The text has no parameters, so `%` in it stands for itself; a topology's names and values
are quoted. `control.sql` holds what is the same on every shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from . import settings
from .agreement import other_maps
from .bucket_sql import (
    bucket_expression,
    bucket_function,
    create_bucket_function,
    owned_multirange,
    quote_ident,
    quote_literal,
    quote_table,
)
from .errors import KeyNotCovered, shown
from .keys import KeyType, KeyValue, canonical_key, key_parts, key_text
from .own_sql import computing, qualified
from .owner_map import contract
from .partitioning import Hash, List, Partitioning
from .topology import Keyspace, Sharded, Single, Topology, succeed

CONTROL_VERSION = 1
"""The version of the schema that this package installs."""

WORKS_WITH = frozenset({1})
"""The versions of the schema with which this package works. A newer one names the versions of the package, as
`meta.works_with`, that go on working with it: so servers and processes are upgraded in any order."""

LOCK_CLASS = 1936747623
"""The reserved first number of the two-number advisory locks on lock groups ("splg" in ASCII)."""

BUCKETS_PER_LOCK_GROUP = 64

INSTALL_LOCK_GROUP = -1
"""The second number of the lock that one `shardpool init` holds against another; no bucket has this group."""

EDIT_LOCK_GROUP = -2
"""The second number of the session's lock by which an edit of the topology shows that it is alive."""

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
  {settings.TOLD},
  (SELECT coalesce(pg_catalog.jsonb_object_agg(here.keyspace, CASE
      WHEN (pg_catalog.to_jsonb(here) -> 'maps'::pg_catalog.text -> 'epoch'::pg_catalog.text) = pg_catalog.to_jsonb(
        (SELECT coalesce(pg_catalog.max(owner.epoch), 0) FROM shardpool.owner WHERE owner.keyspace = here.keyspace))
      THEN pg_catalog.to_jsonb(here) -> 'maps'::pg_catalog.text -> 'digests'::pg_catalog.text
      ELSE (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(first_bucket, last_bucket, shard)
          ORDER BY first_bucket) FROM shardpool.owner WHERE owner.keyspace = here.keyspace) END), '{{}}')
    FROM shardpool.hash_contract AS here),
  coalesce(pg_catalog.to_jsonb(meta) -> 'works_with'::pg_catalog.text, '[]')
FROM shardpool.self CROSS JOIN shardpool.meta""")
"""One row, of the fields of `Identity`.

The columns that came later are read through JSON, so that a server that has not got them yet is no other shard.
"""


class Identity(NamedTuple):
    """A row of `IDENTITY_QUERY`: who a server says it is.

    `epoch` is the topology's, `owners_epoch` the highest of an owner (0: none), `also` another name of the shard.
    `contracts` are by keyspace, and so are `maps`: digests that routers may have (see `owner_map`), or, where a shard
    has none that are of its owners, these as [first bucket, last bucket, shard]. `settings` are the session's as
    `settings.TOLD` tells them, `works_with` the versions of the package that can use a newer schema.
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


def lock_group(bucket: int) -> int:
    """The lock group of a bucket, as `shardpool.lock_group` gives it on the servers."""
    return bucket // BUCKETS_PER_LOCK_GROUP


def install_statements(topology: Topology, shard_name: str) -> list[str]:
    """The statements that make or update a shard's control schema, to be run in order in one transaction.

    Running them again changes nothing. They fail on a server that is another shard, that places keys in another way, or
    whose owners are of a later epoch. Raises `UnknownShard`.
    """
    shard = topology.shard(shard_name)
    return [
        f"SELECT pg_catalog.pg_advisory_xact_lock({LOCK_CLASS}, {INSTALL_LOCK_GROUP})",
        _control_sql(),
        f"SELECT shardpool.install_self({quote_literal(topology.fleet)}, {quote_literal(shard.name)})",
        *(
            statement
            for keyspace in topology.keyspaces.values()
            for statement in (*_functions(keyspace), *_owners(keyspace, topology.epoch))
        ),
    ]


def edit_statements(topology: Topology, shard_name: str) -> list[str]:
    """The statements that bring a shard's functions to a topology, all but its owners; idempotent, in one transaction.

    What only grows is installed whether or not it is there: contracts of new keyspaces, bucket functions with new pins.
    """
    return [
        f"SELECT shardpool.install_self({quote_literal(topology.fleet)}, {quote_literal(shard_name)})",
        *(statement for keyspace in topology.keyspaces.values() for statement in _functions(keyspace)),
    ]


CURRENT_QUERY = (
    "SELECT pg_catalog.to_regclass('shardpool.history') IS NOT NULL\n"
    "  AND pg_catalog.to_regprocedure('shardpool.accept_maps(text, jsonb, boolean)') IS NOT NULL"
)
"""Whether a shard has all that an edit calls."""


def vectors(topology: Topology) -> dict[str, Any]:
    """Keyspace → test vectors of its buckets."""
    return {name: contract_with_vectors(space.partitioning)["vectors"] for name, space in topology.keyspaces.items()}


def control_sql() -> str:
    """The script of what is the same on every shard; it can be run again at any time."""
    return _control_sql()


def changed_owners(old: Topology, renamed: Topology, new: Topology, *, everything: bool = False) -> dict[str, Any]:
    """Keyspace → its owners as `shardpool.install_owners` takes them, of those whose owners are others than before.

    With `everything` of all keyspaces, for a shard that is new. `renamed` is the old topology with the shards' new
    names: entries keep their epoch where bucket and shard are unchanged but for the name.
    """
    carried = succeed(new, renamed)
    return {
        name: json.loads(_owners_json(keyspace))
        for name, keyspace in carried.keyspaces.items()
        if everything
        or name not in old.keyspaces
        or old.keyspaces[name].partitioning != keyspace.partitioning
        or old.keyspaces[name].shard_by_bucket != keyspace.shard_by_bucket
    }


@cache
def _control_sql() -> str:
    return computing(files("shardpool").joinpath("control.sql").read_text(encoding="utf-8"))


def _functions(keyspace: Keyspace) -> Iterator[str]:
    name = quote_literal(keyspace.name)
    contract = quote_literal(json.dumps(contract_with_vectors(keyspace.partitioning)))
    watch = f"SELECT shardpool.watch_buckets({name}, {quote_literal(bucket_function(keyspace.name))})"
    yield f"SELECT shardpool.install_contract({name}, {contract})"
    yield watch
    yield create_bucket_function(keyspace.name, keyspace.partitioning)
    yield watch


def _owners(keyspace: Keyspace, epoch: int) -> Iterator[str]:
    name, digest = quote_literal(keyspace.name), quote_literal(keyspace.map_digest)
    yield f"SELECT shardpool.install_owners({name}, {epoch}, {quote_literal(_owners_json(keyspace))})"
    yield f"SELECT shardpool.install_map({name}, {epoch}, {digest})"


def accept_maps(topologies: Sequence[Topology], *, only: bool) -> list[str]:
    """The statements by which a shard takes routers of these topologies, and with `only` no others; idempotent."""
    maps: dict[str, list[str]] = {}
    for topology in topologies:
        for keyspace in topology.keyspaces.values():
            maps.setdefault(keyspace.name, []).append(keyspace.map_digest)
    return [
        f"SELECT shardpool.accept_maps({quote_literal(name)}, {quote_literal(json.dumps(digests))}, {only})"
        for name, digests in maps.items()
    ]


def _owners_json(keyspace: Keyspace) -> str:
    return json.dumps(
        [
            {"first_bucket": entry.first, "last_bucket": entry.last, "shard": entry.shard, "epoch": entry.epoch}
            for entry in keyspace.owners
        ]
    )


def contract_with_vectors(partitioning: Partitioning) -> dict[str, Any]:
    """The contract and some keys with their buckets, by which a shard tests its own functions."""
    vectors = [
        {"key": [key_text(part) for part in key_parts(key)], "bucket": bucket} for key, bucket in _vectors(partitioning)
    ]
    return {**contract(partitioning), "vectors": vectors}


def moved_vectors(vectors: Sequence[Mapping[str, Any]], partitioning: Partitioning) -> int:
    """Of how many test vectors of a shard the partitioning gives another bucket, or none."""
    return sum(_bucket_of_vector(vector["key"], partitioning) != vector["bucket"] for vector in vectors)


def _bucket_of_vector(parts: Sequence[str], partitioning: Partitioning) -> int | None:
    kinds = partitioning.key_types
    values = [int(part) if kind == "bigint" else part for part, kind in zip(parts, kinds, strict=True)]
    try:
        return partitioning.bucket(canonical_key(values[0] if len(values) == 1 else tuple(values), kinds))
    except KeyNotCovered:
        return None


_SAMPLES: dict[KeyType, tuple[object, ...]] = {
    "bigint": (0, 1, -1, 42, 2**31, 2**63 - 1, -(2**63)),
    "text": ("", "a", "shard", "Zürich", "日本", "𝄞 clef", "it's \\ 100%"),
    "uuid": tuple(f"{digits * 8}" for digits in ("0000", "0123", "89ab", "cdef", "ffff", "a0b1", "7f00")),
    "bytea": (b"", b"\0", b"\xff", b"abc", b"abcd", b"hello world!", bytes(range(32))),
    "date": ("2000-01-01", "1999-12-31", "0001-01-01", "9999-12-31", "2024-02-29", "1970-01-01", "2025-06-30"),
    "timestamptz": tuple(
        f"{moment}+00"
        for moment in (
            "2000-01-01 00:00:00",
            "1999-12-31 23:59:59.999999",
            "0001-01-01 00:00:00",
            "9999-12-31 23:59:59.999999",
            "2024-02-29 12:34:56.789012",
            "1970-01-01 00:00:00",
            "2025-06-30 06:00:00.1",
        )
    ),
}
_SPECIAL_VECTORS = 16


def _vectors(partitioning: Partitioning) -> Iterator[tuple[KeyValue, int]]:
    for key in dict.fromkeys([*_sample_keys(partitioning.key_types), *_special_keys(partitioning)]):
        try:
            yield key, partitioning.bucket(key)
        except KeyNotCovered:
            continue


def _sample_keys(key_types: tuple[KeyType, ...]) -> list[KeyValue]:
    if len(key_types) == 1:
        return [canonical_key(sample, key_types) for sample in _SAMPLES[key_types[0]]]
    # Each part begins elsewhere in its samples, so that two parts of one type differ.
    shifted = [_SAMPLES[kind][at:] + _SAMPLES[kind][:at] for at, kind in enumerate(key_types)]
    return [canonical_key(parts, key_types) for parts in zip(*shifted, strict=True)]


def _special_keys(partitioning: Partitioning) -> Sequence[KeyValue]:
    if isinstance(partitioning, Hash):
        return partitioning.pinned[:_SPECIAL_VECTORS]
    if isinstance(partitioning, List):
        return partitioning.values[:_SPECIAL_VECTORS]
    return partitioning.ends[:_SPECIAL_VECTORS]


STRANGE = "what it says of itself is not what a shard says"


def is_strange(row: Sequence[Any] | None) -> bool:
    """Whether a row of `IDENTITY_QUERY` is not of the shape that a shard gives: the schema may be somebody else's."""
    if row is None:
        return False
    here = Identity._make(row)
    told, numbers = (here.fleet, here.shard, here.settings), (here.version, here.epoch, here.owners_epoch)
    by_keyspace = (*_values(here.contracts, dict), *_values(here.maps, list))
    return not (
        all(isinstance(one, str) for one in told)
        and all(isinstance(one, int) for one in numbers)
        and all(by_keyspace)
        and isinstance(_json(here.works_with), list)
    )


def _values(value: Any, kind: type) -> Iterator[bool]:
    """Whether a json column is an object, and each of its values of a kind."""
    told = _json(value)
    yield isinstance(told, dict)
    if isinstance(told, dict):
        yield from (isinstance(one, kind) for one in told.values())


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
    if here.owners_epoch > topology.epoch:
        return here.owners_epoch
    return here.epoch if here.epoch > topology.epoch and map_problem(row, topology) is not None else None


def other_keyspaces(row: Sequence[Any], topology: Topology) -> tuple[str, ...]:
    """The keyspaces of which a shard has another map than the topology."""
    here = Identity._make(row)
    return tuple(other.keyspace for other in other_maps(_json(here.maps), here.epoch, topology))


def map_problem(row: Sequence[Any], topology: Topology) -> tuple[str, str] | None:
    """What a shard has otherwise than the topology, and what to do; None when both send every key to the same shard."""
    here = Identity._make(row)
    epoch = here.epoch
    found = [str(other) for other in other_maps(_json(here.maps), epoch, topology)]
    if not found:
        return None
    if epoch == topology.epoch:
        found.append(f"both are of epoch {epoch}")
        todo = "One of them was changed by hand. Undo that, and make the change with: shardpool topology apply COPY"
    else:
        found.append(f"the shard is of epoch {epoch}, the topology of epoch {topology.epoch}")
        todo = "Make the change with: shardpool topology apply COPY. Where all of the file is right: shardpool init"
    return "; ".join(found), todo


def tells_maps(row: Sequence[Any]) -> bool:
    """Whether the shard knows which maps are right, rather than its owners alone."""
    return all(maps and isinstance(maps[0], str) for maps in _json(Identity._make(row).maps).values())


def _json(value: Any) -> Any:
    """What json columns are, whether or not psycopg was told to leave them as text."""
    return json.loads(value) if isinstance(value, str | bytes) else value


def _contract_problem(contracts: Mapping[str, Any], topology: Topology) -> str | None:
    for name, keyspace in topology.keyspaces.items():
        there, here = contracts.get(name), contract(keyspace.partitioning)
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


def misplaced_rows_query(keyspace: Keyspace, table: str, owned: Sequence[tuple[int, int]]) -> str:
    """A query for one row (misplaced, uncovered), counts of a table's rows on the shard that owns these bucket ranges.

    Misplaced rows have a bucket that is not among them; uncovered rows have none: no router would find them. It reads
    the whole table, at about 1 µs a row of a bigint key. `table` is a qualified name of the keyspace's tables; ranges
    include both ends.
    """
    columns = ", ".join(quote_ident(column) for column in keyspace.tables[table])
    mine = "{" + ",".join(f"[{first},{last}]" for first, last in owned) + "}"
    # OFFSET 0 keeps the bucket from being computed once for each place where it is named.
    buckets = f"SELECT {bucket_function(keyspace.name)}({columns}) AS bucket FROM {quote_table(table)} OFFSET 0"
    return (
        f"SELECT count(*) FILTER (WHERE NOT bucket <@ int4multirange '{mine}') AS misplaced,\n"
        "  count(*) FILTER (WHERE bucket IS NULL) AS uncovered\n"
        f"FROM ({buckets}) AS placed"
    )


def lost_rows_query(old: Keyspace, new: Keyspace, table: str, shard_name: str) -> str:
    """A query for one row (rows, buckets): a table's rows on a shard that owns them in `old` and not in `new`.

    It reads the whole table, at about 1 µs a row of a bigint key, and twice that where pins or bounds change.
    """
    was = _bucket_of(old, old.tables[table])
    before, after = owned_multirange(old, shard_name), owned_multirange(new, shard_name)
    now = "was" if old.partitioning == new.partitioning else _bucket_of(new, old.tables[table])
    placed = f"SELECT *, {now} AS now FROM (SELECT *, {was} AS was FROM {quote_table(table)} OFFSET 0) AS placed"
    return (
        "SELECT count(*), count(DISTINCT coalesce(now, -1))\n"
        f"FROM ({placed}\n  WHERE was <@ {before} OFFSET 0) AS owned\n"
        f"WHERE NOT coalesce(now <@ {after}, false)"
    )


def unplaced_rows_query(topology: Topology, table: str, shard_name: str) -> str | None:
    """A query for the number of a table's rows on a shard for which the topology would not look there; None: none."""
    match topology.placements.get(table):
        case Sharded(keyspace, columns):
            space = topology.keyspaces[keyspace]
            owned = f"{_bucket_of(space, columns)} <@ {owned_multirange(space, shard_name)}"
            return f"SELECT count(*) FROM {quote_table(table)} WHERE NOT coalesce({owned}, false)"
        case Single(shard) if shard != shard_name:
            return f"SELECT count(*) FROM {quote_table(table)}"
        case _:
            return None


def occupied_query(keyspace: Keyspace, table: str, shard_name: str) -> str:
    """A query for rows (bucket, count): the buckets of a shard that hold rows of a table. It reads the whole table."""
    bucket = _bucket_of(keyspace, keyspace.tables[table])
    return (
        f"SELECT bucket, count(*) FROM (SELECT {bucket} AS bucket FROM {quote_table(table)} OFFSET 0) AS placed\n"
        f"WHERE bucket <@ {owned_multirange(keyspace, shard_name)} GROUP BY bucket"
    )


GIVEN_AWAY = "RS001"
"""The SQLSTATE with which a shard refuses a row of a bucket that it has given away."""

FENCE = "shardpool_fence"
"""The trigger that refuses rows for which nobody would look on the shard, on every table that it has given away."""

FENCE_BY_EVENT = {"INSERT": FENCE, "UPDATE": f"{FENCE}_update"}
"""The two triggers of a fence: only that of UPDATE can look at what a row was."""

FENCED_QUERY = (
    "SELECT pg_catalog.format('%s.%s', n.nspname, c.relname), t.tgnargs > 1 FROM pg_catalog.pg_trigger t\n"
    "JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace\n"
    f"WHERE t.tgname = '{FENCE}' AND t.tgparentid = 0"
)
"""The qualified names of the tables that have a fence, each with whether it was asked for by `enforce`."""


def fence_statement(topology: Topology, table: str, shard_name: str, *, enforced: bool = False) -> str:
    """The statements that fence a table of a shard: only rows come in that the topology looks for there.

    Rows are looked at when they are stored, after all that may have changed their key; updated ones where it is
    another. `enforced` is kept by the fence for those who draw it anew.

    Where it looks for every row, it takes a fence away. Waits for the writers that are at work on the table, and holds
    up those that come while it waits.
    """
    columns: tuple[str, ...] = ()
    match topology.placements.get(table):
        case Sharded(keyspace, columns):
            foreign = _foreign(topology.keyspaces[keyspace], columns, shard_name)
            changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in map(quote_ident, columns))
            conditions = {"INSERT": f" WHEN ({foreign})", "UPDATE": f" WHEN (({changed}) AND {foreign})"}
        case Single(shard) if shard != shard_name:
            conditions = {"INSERT": "", "UPDATE": ""}
        case _:
            return unfence_statement(table)
    arguments = quote_literal(str(topology.epoch)) + (", 'enforced'" if enforced else "")
    return ";\n".join(
        f"CREATE OR REPLACE TRIGGER {FENCE_BY_EVENT[event]} AFTER {event} ON {quote_table(table)}\n"
        f"FOR EACH ROW{when} EXECUTE FUNCTION shardpool.refuse_row({arguments})"
        for event, when in conditions.items()
    )


def _foreign(keyspace: Keyspace, columns: Sequence[str], shard_name: str) -> str:
    """Whether a new row is not the shard's: a key that nobody owns has no bucket, and is not its own either.

    A row without a key is nobody's by any topology, and none of the fence's business.
    """
    whole = " AND ".join(f"NEW.{quote_ident(column)} IS NOT NULL" for column in columns)
    expression = _bucket_of(keyspace, columns, "NEW.")
    return f"{whole} AND NOT coalesce({expression} <@ {owned_multirange(keyspace, shard_name)}, false)"


def unfence_statement(table: str) -> str:
    """The statements that take the fence of a table away."""
    names = FENCE_BY_EVENT.values()
    return ";\n".join(f"DROP TRIGGER IF EXISTS {name} ON {quote_table(table)}" for name in names)


def _bucket_of(keyspace: Keyspace, columns: Sequence[str], row: str = "") -> str:
    kinds = keyspace.key_types
    cast = [f"{row}{quote_ident(column)}::{kind}" for column, kind in zip(columns, kinds, strict=True)]
    return f"({bucket_expression(keyspace.partitioning, cast)})"


def self_test_query(topology: Topology) -> str:
    """A query for one number: of how many test vectors the shard's own functions give another bucket.

    A keyspace without vectors counts as one. Fails with undefined_function where a bucket function is missing.
    """
    if not topology.keyspaces:
        return "SELECT 0::bigint"
    return "SELECT " + "\n  + ".join(_mismatches(keyspace) for keyspace in topology.keyspaces.values())


def _mismatches(keyspace: Keyspace) -> str:
    key = ", ".join(f"(vector->'key'->>{at})::{kind}" for at, kind in enumerate(keyspace.key_types))
    return (
        f"(SELECT count(*) FILTER (WHERE {bucket_function(keyspace.name)}({key}) "
        "IS DISTINCT FROM (vector->>'bucket')::integer)\n"
        "    + (CASE WHEN count(*) = 0 THEN 1 ELSE 0 END)\n"
        "  FROM shardpool.hash_contract, jsonb_array_elements(contract->'vectors') AS vector\n"
        f"  WHERE keyspace = {quote_literal(keyspace.name)})"
    )
