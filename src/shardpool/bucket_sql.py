"""The SQL of a partitioning: the expression and the function that give a key its bucket on a server.

NULL where Python raises: a NULL part, a key that no range or list entry holds, a date that Python cannot write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, assert_never

from .hashing import PARTITION_SEED, murmur3
from .keys import KeyPart, KeyType, KeyValue, encode_canonical, key_text
from .partitioning import Hash, List, Partitioning, Range

if TYPE_CHECKING:
    from .topology import Keyspace

_LONGEST_NAME = 63  # bytes: NAMEDATALEN - 1


def quote_ident(name: str) -> str:
    """A name as SQL writes it; raises `ValueError` for one that no PostgreSQL name can be."""
    if not name or "\0" in name:
        raise ValueError(f"not a name: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A text as a literal that reads alike with `standard_conforming_strings` on and off."""
    if "\0" in text:
        raise ValueError("a literal holds no NUL character")
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def quote_table(table: str) -> str:
    """`schema.table` or `table`, each part quoted."""
    return ".".join(quote_ident(part) for part in table.split(".", 1))


def bucket_function(keyspace: str) -> str:
    """The quoted, qualified name of a keyspace's bucket function; a long name ends in its hash, since 63 bytes fit."""
    name = f"bucket_{keyspace}"
    if len(name.encode()) > _LONGEST_NAME:
        name = f"{name.encode()[:54].decode(errors='ignore')}_{murmur3(keyspace.encode()):08x}"
    return f"shardpool.{quote_ident(name)}"


def create_bucket_function(keyspace: str, partitioning: Partitioning) -> str:
    """The statement that makes or replaces the keyspace's bucket function."""
    columns = key_columns(partitioning.key_types)
    parameters = ", ".join(f"{column} {kind}" for column, kind in zip(columns, partitioning.key_types, strict=True))
    return (
        f"CREATE OR REPLACE FUNCTION {bucket_function(keyspace)}({parameters}) RETURNS integer\n"
        f"LANGUAGE sql IMMUTABLE PARALLEL SAFE\nRETURN {bucket_expression(partitioning, columns)}"
    )


def owned_buckets(keyspace: Keyspace, shard_name: str) -> list[tuple[int, int]]:
    """The ranges of buckets, first and last included, that the topology gives to the shard; ascending."""
    ranges: list[tuple[int, int]] = []
    for entry in keyspace.owners:
        if entry.shard != shard_name:
            continue
        if ranges and ranges[-1][1] + 1 == entry.first:
            ranges[-1] = (ranges[-1][0], entry.last)
        else:
            ranges.append((entry.first, entry.last))
    return ranges


def owned_multirange(keyspace: Keyspace, shard_name: str) -> str:
    """`owned_buckets` as a constant of SQL."""
    ranges = ",".join(f"[{first},{last}]" for first, last in owned_buckets(keyspace, shard_name))
    return f"'{{{ranges}}}'::pg_catalog.int4multirange"


def key_columns(key_types: Sequence[KeyType]) -> tuple[str, ...]:
    """The bucket function's parameters: `key`, or `key_1`, `key_2`…"""
    return ("key",) if len(key_types) == 1 else tuple(f"key_{at}" for at in range(1, len(key_types) + 1))


def bucket_expression(partitioning: Partitioning, columns: Sequence[str]) -> str:
    """The bucket of the key in these columns (SQL expressions of the key types), as an integer."""
    guard = " AND ".join(map(_guard, columns, partitioning.key_types))
    return f"CASE WHEN {guard} THEN ({_bucket(partitioning, columns)})::integer END"


def typed_literal(part: KeyPart, key_type: KeyType) -> str:
    """A canonical part of a key as a constant of its type."""
    return f"{key_type} {quote_literal(key_text(part)).lstrip()}"


# The years that Python has; they leave out 'infinity' and NULL as well.
_BETWEEN: dict[KeyType, str] = {
    "date": "BETWEEN date '0001-01-01' AND date '9999-12-31'",
    "timestamptz": "BETWEEN timestamptz '0001-01-01 00:00:00+00' AND timestamptz '9999-12-31 23:59:59.999999+00'",
}


def _guard(column: str, key_type: KeyType) -> str:
    return f"{column} {_BETWEEN.get(key_type, 'IS NOT NULL')}"


def _bucket(partitioning: Partitioning, columns: Sequence[str]) -> str:
    match partitioning:
        case Hash():
            return _hash_bucket(partitioning, columns)
        case Range():
            return _range_bucket(partitioning, columns[0])
        case List():
            return _list_bucket(partitioning, columns)
        case _:
            assert_never(partitioning)


def _hash_bucket(partitioning: Hash, columns: Sequence[str]) -> str:
    by_hash = _hashed(partitioning, columns)
    if not partitioning.pinned:
        return by_hash
    position = _position(partitioning.pinned, partitioning.key_types, columns)
    return f"COALESCE({position} + {partitioning.buckets}, {by_hash})"


def _list_bucket(partitioning: List, columns: Sequence[str]) -> str:
    default = len(partitioning.values)
    if not partitioning.values:
        return str(default)
    position = _position(partitioning.values, partitioning.key_types, columns)
    return f"COALESCE({position}, {default})" if partitioning.default else position


def _range_bucket(partitioning: Range, column: str) -> str:
    if not partitioning.ends:
        return "0"
    key_type = partitioning.key_types[0]
    # width_bucket counts the bounds that are not above the key, by binary search.
    number = f"pg_catalog.width_bucket({_collated(column, key_type)}, {_array(partitioning.ends, key_type)})"
    return number if partitioning.is_unbounded else f"NULLIF({number}, {len(partitioning.bounds)})"


def _position(keys: Sequence[KeyValue], key_types: tuple[KeyType, ...], columns: Sequence[str]) -> str:
    if len(key_types) == 1:
        wanted, listed = _collated(columns[0], key_types[0]), _array(keys, key_types[0])
    else:
        wanted, listed = _encoded(columns), _array([encode_canonical(key, key_types) for key in keys], "bytea")
    return f"pg_catalog.array_position({listed}, {wanted}) - 1"


def _array(parts: Sequence[Any], key_type: KeyType) -> str:
    return f"ARRAY[{', '.join(typed_literal(part, key_type) for part in parts)}]"


def _collated(column: str, key_type: KeyType) -> str:
    # By bytes, as Python does, whatever the collation of the column that is passed.
    return f'({column} COLLATE pg_catalog."C")' if key_type == "text" else column


def _hashed(partitioning: Hash, columns: Sequence[str]) -> str:
    if partitioning.function == "murmur3":
        return f"{_murmur3(columns, partitioning.key_types)} % {partitioning.buckets}"
    combined = "0::bigint"
    for column, key_type in zip(columns, partitioning.key_types, strict=True):
        combined = f"shardpool.combine_hashes({combined}, {_postgres_hash(column, key_type)})"
    return f"shardpool.unsigned_remainder({combined}, {partitioning.buckets})"


def _murmur3(columns: Sequence[str], key_types: tuple[KeyType, ...]) -> str:
    if len(columns) > 1:
        return f"shardpool.murmur3({_encoded(columns)})"
    column = columns[0]
    match key_types[0]:
        case "date":
            column = f"shardpool.days({column})"
        case "timestamptz":
            column = f"shardpool.microseconds({column})"
        case "text" | "uuid":
            column = f"shardpool.encode_key({column})"
    return f"shardpool.murmur3({column})"


def _encoded(columns: Sequence[str]) -> str:
    return " || ".join(f"shardpool.key_part(shardpool.encode_key({column}))" for column in columns)


def _postgres_hash(column: str, key_type: KeyType) -> str:
    seed = PARTITION_SEED
    match key_type:
        case "bigint":
            return f"pg_catalog.hashint8extended({column}, {seed})"
        case "text":
            return f"pg_catalog.hashtextextended({_collated(column, 'text')}, {seed})"
        case "uuid":
            return f"pg_catalog.uuid_hash_extended({column}, {seed})"
        case "bytea":
            # bytea's own function takes `internal` before version 18; a record of one column hashes alike.
            return f"pg_catalog.hash_record_extended(ROW({column}), {seed})"
        case "date":
            return f"pg_catalog.hashint4extended(shardpool.days({column})::integer, {seed})"
        case "timestamptz":
            return f"pg_catalog.hashint8extended(shardpool.microseconds({column}), {seed})"
