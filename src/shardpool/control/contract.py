"""How keys become buckets, with test vectors by which a shard tests its own functions. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import KeyNotCovered
from ..keys import KeyType, KeyValue, canonical_key, key_parts, key_text
from ..partitioning import Partitioning
from ..quoting import quote_literal
from ..topology import Keyspace, Topology
from .buckets import bucket_function


def vectors(topology: Topology) -> dict[str, Any]:
    """Keyspace → test vectors of its buckets."""
    return {name: contract_with_vectors(space.partitioning)["vectors"] for name, space in topology.keyspaces.items()}


def contract_with_vectors(partitioning: Partitioning) -> dict[str, Any]:
    """The contract and some keys with their buckets, by which a shard tests its own functions."""
    vectors = [
        {"key": [key_text(part) for part in key_parts(key)], "bucket": bucket} for key, bucket in _vectors(partitioning)
    ]
    return {**partitioning.contract(), "vectors": vectors}


def moved_vectors(vectors: Sequence[Mapping[str, Any]], partitioning: Partitioning) -> int:
    """Of how many test vectors of a shard the partitioning gives another bucket, or none."""
    return sum(_bucket_of_vector(vector["key"], partitioning) != vector["bucket"] for vector in vectors)


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
    special = [key for key in partitioning.special_keys if key is not None]
    for key in dict.fromkeys([*_sample_keys(partitioning.key_types), *special[:_SPECIAL_VECTORS]]):
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
