"""Partitionings map keys to buckets and know nothing of shards: `Hash`, `Range`, `List`.

A strategy is one file, Python and SQL side by side, and an entry of `STRATEGIES`. Besides, its shape in the file is
said in `config` (`_models`, `_placements`), and an edit that only it has in `edits`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ..hashing import HashFunction
from ..keys import ENCODING_VERSION, KEY_TYPES, KeyPart, KeyType, KeyValue, canonical_key, encode_key, key_text
from .hash import Hash
from .list import List
from .range import Range
from .strategy import MAX_BUCKETS, Partitioning, make_batch_lookup, make_lookup

__all__ = [
    "ENCODING_VERSION",
    "KEY_TYPES",
    "MAX_BUCKETS",
    "STRATEGIES",
    "Hash",
    "HashFunction",
    "KeyPart",
    "KeyType",
    "KeyValue",
    "List",
    "Partitioning",
    "Range",
    "canonical_key",
    "encode_key",
    "key_text",
    "make_batch_lookup",
    "make_lookup",
]

STRATEGIES: Mapping[str, type[Partitioning]] = MappingProxyType(
    {strategy.kind: strategy for strategy in (Hash, Range, List)}
)
"""The strategies by their name in the file."""
