"""The functions that give a key its bucket on a server, and the buckets that a shard owns. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..hashing import murmur3
from ..keys import KeyType
from ..partitioning import Partitioning
from ..quoting import quote_ident
from ..topology import Keyspace

_LONGEST_NAME = 63  # bytes: NAMEDATALEN - 1


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
        f"LANGUAGE sql IMMUTABLE PARALLEL SAFE\nRETURN {partitioning.bucket_expression(columns)}"
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


def held_buckets(keyspace: Keyspace, shard_name: str) -> list[tuple[int, int]]:
    """`owned_buckets`, and those that a move brings to the shard or takes from it: it may hold rows of them."""
    moving = [entry for move in keyspace.moves if shard_name in (move.source, move.target) for entry in move.buckets]
    return [*owned_buckets(keyspace, shard_name), *moving]


def owned_multirange(keyspace: Keyspace, shard_name: str) -> str:
    """`owned_buckets` as a constant of SQL."""
    ranges = ",".join(f"[{first},{last}]" for first, last in owned_buckets(keyspace, shard_name))
    return f"'{{{ranges}}}'::pg_catalog.int4multirange"


def key_columns(key_types: Sequence[KeyType]) -> tuple[str, ...]:
    """The bucket function's parameters: `key`, or `key_1`, `key_2`…"""
    return ("key",) if len(key_types) == 1 else tuple(f"key_{at}" for at in range(1, len(key_types) + 1))


def bucket_of(keyspace: Keyspace, columns: Sequence[str], row: str = "") -> str:
    """The bucket of a row of a table of the keyspace; `row` is what stands before its columns' names."""
    kinds = keyspace.key_types
    cast = [f"{row}{quote_ident(column)}::{kind}" for column, kind in zip(columns, kinds, strict=True)]
    return f"({keyspace.partitioning.bucket_expression(cast)})"
