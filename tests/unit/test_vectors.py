"""The key encoding and the hashes are frozen: rows on disk lie where these vectors say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shardpool.hashing import lookup3, murmur3
from shardpool.keys import ENCODING_VERSION, KEY_TYPES, canonical_key, encode_key, key_parts, key_text
from shardpool.partitioning import Hash, make_lookup

FILE = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text(encoding="utf-8"))
VECTORS: list[dict[str, Any]] = FILE["vectors"]


def _key(vector: dict[str, Any]) -> Any:
    value = vector["value"]
    return canonical_key(value if len(value) > 1 else value[0], tuple(vector["type"]))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{'+'.join(vector['type'])}-{vector['encoded'][:24]}")
def test_key_is_encoded_and_placed_as_frozen(vector: dict[str, Any]) -> None:
    key_types, key = tuple(vector["type"]), _key(vector)
    encoded = encode_key(key, key_types)
    assert encoded.hex() == vector["encoded"]
    assert murmur3(encoded) == vector["murmur3"]
    by_murmur3, by_postgres = Hash(key_types), Hash(key_types, "postgres")
    assert by_murmur3.buckets == FILE["buckets"]
    assert by_murmur3.bucket(key) == make_lookup(by_murmur3, range(4096))(key) == vector["bucket"]
    assert by_postgres.bucket(key) == make_lookup(by_postgres, range(4096))(key) == vector["postgres_bucket"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{'+'.join(vector['type'])}-{vector['encoded'][:24]}")
def test_value_of_a_vector_is_the_canonical_text(vector: dict[str, Any]) -> None:
    assert [key_text(part) for part in key_parts(_key(vector))] == vector["value"]


def test_every_type_has_a_dozen_vectors_of_the_current_encoding() -> None:
    count = Counter(tuple(vector["type"]) for vector in VECTORS)
    assert all(count[(key_type,)] >= 12 for key_type in KEY_TYPES)
    assert sum(number for types, number in count.items() if len(types) > 1) >= 12
    assert FILE["encoding"] == ENCODING_VERSION


# Known answers of SMHasher's murmur3 x86_32.
def test_hashes_agree_with_published_values() -> None:
    assert murmur3(b"") == 0
    assert murmur3(b"\xff\xff\xff\xff") == 0x76293B50
    assert murmur3(b"\x21\x43\x65\x87") == 0xF55B516B
    assert murmur3(b"The quick brown fox jumps over the lazy dog") == 0x2E4FF723


def test_postgres_hash_agrees_with_values_that_a_server_gave() -> None:
    # SELECT hashtextextended(text, seed) on PostgreSQL 15 and 18.
    assert _signed(lookup3(b"", 0)) == -6939563903564495251
    assert _signed(lookup3(b"shardpool shards a pool", 0)) == -4598406525280286071
    assert _signed(lookup3(b"shardpool", 42)) == -8872343439456802530


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
