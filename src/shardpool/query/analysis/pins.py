"""What a statement says about a partition key, and which buckets that leaves when its parameters are known.

A pin never leaves out a bucket that holds a row which matters; when in doubt it leaves all in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

from ...errors import InvalidKey, KeyNotCovered, UnsupportedQuery
from ...keys import KeyType, canonical_key, cut
from ...partitioning import Partitioning

_INTEGER = re.compile(r"[ \t\n\r\f\v]*[+-]?[0-9]{1,19}[ \t\n\r\f\v]*", re.ASCII)
_INT64 = range(-(2**63), 2**63)
# Keys that a composite pin may be multiplied out to; above it every bucket is asked.
_COMBINATIONS_MAX = 10_000

Values = Sequence[Any]


class _Unknown:
    """A value that cannot be compared with the key here: it pins nothing."""


UNKNOWN = _Unknown()
# A parameter whose text the server may read as another type than the key's: see `plan.loose_params`.
UNREAD = object()
# A value that no key equals, NULL for one.
NOTHING = object()


@dataclass(frozen=True, slots=True)
class Holder:
    """The key column that a value is stored in: the length of a varchar(n), 0 for none, and whether it takes NULL."""

    length: int = 0
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Const:
    """A literal, or the parameter `$n`; `cast` is the type that it is cast to, if any.

    `holder` is where a value that is stored, not compared, is put.
    """

    value: Any = None
    param: int = 0
    cast: str = ""
    holder: Holder = Holder()

    def __str__(self) -> str:
        return f"${self.param}" if self.param else repr(self.value)


@dataclass(frozen=True, slots=True)
class In:
    """The key is one of these."""

    consts: tuple[Const, ...]

    def __str__(self) -> str:
        return "= " + (str(self.consts[0]) if len(self.consts) == 1 else f"in ({', '.join(map(str, self.consts))})")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The key is in the list that this parameter is."""

    const: Const

    def __str__(self) -> str:
        return f"= any({self.const})"


@dataclass(frozen=True, slots=True)
class Inequality:
    """The key is `<`, `<=`, `>` or `>=` a value."""

    operator: str
    const: Const

    def __str__(self) -> str:
        return f"{self.operator} {self.const}"


@dataclass(frozen=True, slots=True)
class Either:
    """One of the pins holds."""

    pins: tuple[Pin, ...]

    def __str__(self) -> str:
        return " or ".join(map(str, self.pins))


@dataclass(frozen=True, slots=True)
class Both:
    """All of the pins hold."""

    pins: tuple[Pin, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.pins))


@dataclass(frozen=True, slots=True)
class AssignedKeys:
    """The key of rows that are made is one of these: values that are assigned, not compared."""

    consts: tuple[Const, ...]

    def __str__(self) -> str:
        return f"becomes {', '.join(map(str, self.consts))}"


@dataclass(frozen=True, slots=True)
class KeyAssignment:
    """A part of the key of a table that is assigned a value: None for an expression, of which only a server knows."""

    table: str
    keyspace: str
    part: int
    column: str
    assigned: Const | None
    pinned: tuple[Const, ...]

    def holds(self, key_type: KeyType, params: Values) -> bool:
        """Whether it is the one that the rows have already, with these parameters."""
        if self.assigned is None:
            return False
        try:
            value = stored_value(self.assigned, key_type, params)
        except InvalidKey:
            return False
        return value is not NOTHING and any(key_value(const, key_type, params) == value for const in self.pinned)

    def refusal(self) -> UnsupportedQuery:
        return UnsupportedQuery(
            f"the partition key {self.column} of {self.table.removeprefix('public.')} cannot be changed in place",
            detail="The row may belong to another shard then.",
            hint="Change it by a plain UPDATE; or insert the row with the new key and delete the old one.",
        )


Pin = In | AnyOf | Inequality | Either | Both | AssignedKeys


def buckets(pins: Sequence[Sequence[Pin]], partitioning: Partitioning, params: Values) -> set[int] | None:
    """The buckets that the pins leave, given those of each key part; None when they leave all."""
    if len(pins) == 1:
        return _narrowed(_buckets(pin, partitioning, params) for pin in pins[0])
    keys: list[set[Any]] = []
    for part, key_type in zip(pins, partitioning.key_types, strict=True):
        narrowed = _narrowed(_values(pin, key_type, params) for pin in part)
        if narrowed is None:
            return None
        keys.append(narrowed)
    size = 1
    for values in keys:
        size *= len(values)
    return _buckets_of(product(*keys), partitioning) if size <= _COMBINATIONS_MAX else None


def _narrowed(sets: Iterable[set[Any] | None]) -> set[Any] | None:
    common: set[Any] | None = None
    for one in sets:
        if one is not None:
            common = one if common is None else common & one
    return common


def _widened(sets: Iterable[set[Any] | None]) -> set[Any] | None:
    every: set[Any] = set()
    for one in sets:
        if one is None:
            return None
        every |= one
    return every


def _buckets(pin: Pin, partitioning: Partitioning, params: Values) -> set[int] | None:
    match pin:
        case Both(pins):
            return _narrowed(_buckets(one, partitioning, params) for one in pins)
        case Either(pins):
            return _widened(_buckets(one, partitioning, params) for one in pins)
        case Inequality(operator, const):
            return _range_buckets(operator, const, partitioning, params)
    values = _values(pin, partitioning.key_types[0], params)
    return None if values is None else _buckets_of(((value,) for value in values), partitioning)


def _buckets_of(keys: Iterable[tuple[Any, ...]], partitioning: Partitioning) -> set[int]:
    """The buckets of the keys; a key that no range or list entry holds has no rows."""
    numbers = set()
    for key in keys:
        try:
            numbers.add(partitioning.bucket(key[0] if len(key) == 1 else key))
        except KeyNotCovered:
            continue
    return numbers


def _range_buckets(operator: str, const: Const, partitioning: Partitioning, params: Values) -> set[int] | None:
    if not partitioning.is_ordered:
        return None
    value = key_value(const, partitioning.key_types[0], params)
    if value is UNKNOWN:
        return None
    if value is NOTHING:
        return set() if _plain(const, params) is None else None
    return set(partitioning.buckets_compared(operator, value))


def _values(pin: Pin, key_type: KeyType, params: Values) -> set[Any] | None:
    match pin:
        case In(consts):
            return _known(key_value(const, key_type, params) for const in consts)
        case AssignedKeys(consts):
            stored = {stored_value(const, key_type, params) for const in consts}
            return stored - {NOTHING}
        case AnyOf(const):
            return _known(_listed(const, key_type, params))
        case Either(pins):
            return _widened(_values(one, key_type, params) for one in pins)
        case Both(pins):
            return _narrowed(_values(one, key_type, params) for one in pins)
    return None


def _known(values: Iterable[Any]) -> set[Any] | None:
    known = set()
    for value in values:
        if value is UNKNOWN:
            return None
        if value is not NOTHING:
            known.add(value)
    return known


def _listed(const: Const, key_type: KeyType, params: Values) -> Iterator[Any]:
    values = params[const.param - 1] if const.param else const.value
    if values is None:
        return
    if type(values) is not list:
        yield UNKNOWN
        return
    # psycopg dumps a list by the type of its items: numbers and texts together are an error or another comparison.
    if len({type(value) for value in values if value is not None}) > 1:
        yield UNKNOWN
        return
    for value in values:
        yield key_value(Const(value, cast=const.cast), key_type, ())


def _plain(const: Const, params: Values) -> Any:
    return params[const.param - 1] if const.param else const.value


def key_value(const: Const, key_type: KeyType, params: Values) -> Any:
    """The key that a value is equal to in SQL: canonical, or NOTHING (no key equals it), or UNKNOWN."""
    value = _plain(const, params)
    if value is None:
        return NOTHING
    try:
        return _READERS[key_type](value, const.cast)
    except (InvalidKey, ValueError):
        return UNKNOWN


def stored_value(const: Const, key_type: KeyType, params: Values) -> Any:
    """The key that a column holds when this value is assigned to it, NOTHING for NULL.

    Raises `InvalidKey` where only the server could tell: it rounds numbers, and reads texts in many forms. What is too
    long for a varchar(n) is an error of the server but for spaces, which it cuts off.
    """
    plain = _plain(const, params)
    if plain is None and const.holder.nullable:
        raise InvalidKey("NULL is the key of no shard", hint="Give the row a key, and make the column NOT NULL.")
    if key_type == "text" and type(plain) is int and const.cast in _INTEGER_CASTS:
        const = replace(const, value=(plain := str(plain)), param=0, cast="")
    value = UNKNOWN if type(plain) is Decimal else key_value(const, key_type, params)
    if plain is UNREAD:
        raise InvalidKey(
            f"cannot tell the shard of a new row by ${const.param}, a text that is used in several places",
            detail="The server reads it in all of them as the type that the first one asks for.",
            hint=f"Give the key a parameter of its own, or pass it as the Python type of a {key_type} key.",
        )
    if value is UNKNOWN or (value is NOTHING and plain is not None):
        why = _why_unread(plain, key_type) if not const.cast else None
        raise InvalidKey(
            f"cannot tell the shard of a new row by a {key_type} key of type {type(plain).__name__}",
            detail=why.detail if why is not None and type(plain) is str else None,
            hint="Pass the value as the Python type of the key.",
            sqlstate=why.sqlstate if why is not None else None,
        )
    if const.holder.length and type(value) is str:
        return cut(value, const.holder.length)
    return value


def _why_unread(value: Any, key_type: KeyType) -> InvalidKey | None:
    try:
        canonical_key(value, (key_type,))
    except InvalidKey as error:
        return error
    return None


_INTEGER_CASTS = ("", "int2", "int4", "int8")


def _bigint(value: Any, cast: str) -> Any:
    if cast not in _INTEGER_CASTS and not (cast == "numeric" and type(value) in (int, Decimal)):
        return UNKNOWN
    if type(value) is str:
        number = int(value) if _INTEGER.fullmatch(value) else None
        return number if number is not None and number in _INT64 else UNKNOWN
    if type(value) is Decimal and not cast.startswith("int"):
        if not value.is_finite() or value != value.to_integral_value():
            return NOTHING
        value = int(value)
    if type(value) is not int:
        return UNKNOWN
    return value if value in _INT64 else NOTHING if not cast.startswith("int") else UNKNOWN


def _text(value: Any, cast: str) -> Any:
    return value if type(value) is str and cast in ("", "text", "varchar") else UNKNOWN


def _exact(key_type: KeyType, *types: type) -> Callable[[Any, str], Any]:
    """The reader of a type whose texts are read here as a key is: those that mean the same under every setting."""

    def read(value: Any, cast: str) -> Any:
        is_known = cast in ("", key_type) and type(value) in (*types, str)
        return canonical_key(value, (key_type,)) if is_known else UNKNOWN

    return read


_READERS = {
    "bigint": _bigint,
    "text": _text,
    "uuid": _exact("uuid", UUID),
    "bytea": _exact("bytea", bytes),
    "date": _exact("date", date),
    "timestamptz": _exact("timestamptz", datetime),
}
