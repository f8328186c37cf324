"""SQL of keys that several strategies have. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..keys import KeyPart, KeyType, KeyValue, encode_canonical, key_text
from ..quoting import quote_literal
from .composite import encoded_sql


def typed_literal(part: KeyPart, key_type: KeyType) -> str:
    """A canonical part of a key as a constant of its type."""
    return f"{key_type} {quote_literal(key_text(part)).lstrip()}"


# The years that Python has; they leave out 'infinity' and NULL as well.
_BETWEEN: dict[KeyType, str] = {
    "date": "BETWEEN date '0001-01-01' AND date '9999-12-31'",
    "timestamptz": "BETWEEN timestamptz '0001-01-01 00:00:00+00' AND timestamptz '9999-12-31 23:59:59.999999+00'",
}


def guard(column: str, key_type: KeyType) -> str:
    """Whether a part is one that Python can have."""
    return f"{column} {_BETWEEN.get(key_type, 'IS NOT NULL')}"


def position(keys: Sequence[KeyValue], key_types: tuple[KeyType, ...], columns: Sequence[str]) -> str:
    """The number of the key among some, from 0; NULL when it is none of them."""
    if len(key_types) == 1:
        wanted, listed = collated(columns[0], key_types[0]), array(keys, key_types[0])
    else:
        wanted, listed = encoded_sql(columns), array([encode_canonical(key, key_types) for key in keys], "bytea")
    return f"pg_catalog.array_position({listed}, {wanted}) - 1"


def array(parts: Sequence[Any], key_type: KeyType) -> str:
    """Canonical parts as an array."""
    return f"ARRAY[{', '.join(typed_literal(part, key_type) for part in parts)}]"


def collated(column: str, key_type: KeyType) -> str:
    """A column as Python compares it."""
    # By bytes, as Python does, whatever the collation of the column that is passed.
    return f'({column} COLLATE pg_catalog."C")' if key_type == "text" else column
