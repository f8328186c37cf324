"""Partition keys: which values are keys, their canonical form, and the bytes that are hashed.

The encoding is frozen (`ENCODING_VERSION`): where rows lie on disk depends on it. `tests/vectors/keys.json` holds it
down, and `control/schema.sql` is its twin on the servers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from operator import index
from struct import Struct
from typing import Any, Literal, NoReturn, SupportsIndex, get_args
from uuid import UUID

from .errors import InvalidKey

KeyType = Literal["bigint", "text", "uuid", "bytea", "date", "timestamptz"]
KEY_TYPES: tuple[KeyType, ...] = get_args(KeyType)

KeyPart = int | str | UUID | bytes | date | datetime
KeyValue = KeyPart | tuple[KeyPart, ...]
"""A canonical key: of one part the plain value, of several a tuple. A `datetime` is in UTC."""

ENCODING_VERSION = 1

# Column types whose equality is equality of the bytes that are hashed, as format_type() spells them without a length.
COLUMN_TYPES: dict[KeyType, tuple[str, ...]] = {
    "bigint": ("bigint", "integer", "smallint"),
    "text": ("text", "character varying"),
    "uuid": ("uuid",),
    "bytea": ("bytea",),
    "date": ("date",),
    "timestamptz": ("timestamp with time zone",),
}

# The Python type whose values are canonical keys as they are; a datetime may lack its zone.
EXACT_TYPES: dict[KeyType, type] = {"bigint": int, "text": str, "uuid": UUID, "bytea": bytes, "date": date}

EPOCH_ORDINAL = date(2000, 1, 1).toordinal()
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
LONGEST_SHOWN = 60

pack_bigint = Struct("<q").pack
pack_length = Struct("<I").pack


def column_problems(name: str, type_: str, key_type: KeyType, *, deterministic: bool) -> list[str]:
    """Why a column cannot hold this part of a key, in words."""
    problems = []
    if type_.split("(")[0] not in COLUMN_TYPES[key_type]:
        problems.append(f"key column {name} is {type_}, the topology says {key_type}")
    if not deterministic:
        problems.append(f"key column {name} has a nondeterministic collation")
    return problems


def canonical_key(value: object, key_types: tuple[KeyType, ...]) -> KeyValue:
    """The one Python value that stands for this key; equal keys on the server have equal canonical values.

    A value of another type is coerced only where PostgreSQL, whatever its settings, would read the same value. Several
    key types want a tuple or list of as many parts. Raises `InvalidKey`.
    """
    if len(key_types) == 1:
        return _COERCE[key_types[0]](value)
    if not isinstance(value, (tuple, list)) or len(value) != len(key_types):
        raise InvalidKey(
            f"cannot use {shown(value)} as a key of {len(key_types)} parts",
            hint=f"Pass a tuple ({', '.join(key_types)}).",
        )
    return tuple(_COERCE[key_type](part) for key_type, part in zip(key_types, value, strict=True))


def encode_key(value: object, key_type: KeyType | tuple[KeyType, ...]) -> bytes:
    """The bytes of a key that are hashed; raises `InvalidKey`. Frozen, version 1:

    ===========  ============================================================================================
    bigint       8 bytes, little-endian two's complement (smallint and int too)
    text         UTF-8, not normalised
    uuid         16 bytes, big-endian
    bytea        as is
    date         days since 2000-01-01, as a bigint
    timestamptz  microseconds since 2000-01-01 00:00 UTC, as a bigint
    several      each part after its length in 4 bytes, little-endian, unsigned
    ===========  ============================================================================================
    """
    key_types = (key_type,) if isinstance(key_type, str) else key_type
    return encode_canonical(canonical_key(value, key_types), key_types)


def encode_canonical(key: KeyValue, key_types: tuple[KeyType, ...]) -> bytes:
    """`encode_key` of a value that is canonical already."""
    encoded = [_ENCODE[key_type](part) for key_type, part in zip(key_types, key_parts(key), strict=True)]
    if len(encoded) == 1:
        return encoded[0]
    return b"".join(pack_length(len(part)) + part for part in encoded)


def key_parts(key: KeyValue) -> tuple[KeyPart, ...]:
    """The parts of a canonical key, one or several."""
    return key if isinstance(key, tuple) else (key,)


def plain_key(key: KeyValue) -> str:
    """A canonical key as PostgreSQL writes it; several parts with commas between them."""
    return ", ".join(map(key_text, key_parts(key)))


_LENGTH = re.compile(r"character varying\(([0-9]+)\)")


def varchar_length(column_type: str) -> int:
    """The length of a varchar(n), as format_type() spells it; 0 for every other type."""
    match = _LENGTH.fullmatch(column_type)
    return int(match[1]) if match else 0


def cut(text: str, length: int) -> str:
    """A text as a varchar of that length stores it, 0 for none: spaces behind are cut off, all else is an error."""
    return text[:length] if length and not text[length:].strip(" ") else text


def ends_in_space(key: object) -> bool:
    """Whether a text of the key ends so that a varchar may store less of it."""
    if isinstance(key, str):
        return key[-1:] == " "
    return isinstance(key, tuple | list) and any(isinstance(part, str) and part[-1:] == " " for part in key)


def key_text(part: KeyPart) -> str:
    """A canonical part as PostgreSQL's input functions read it, whatever DateStyle and TimeZone are set to."""
    match part:
        case datetime():
            return part.isoformat(" ", "microseconds")
        case bytes():
            return "\\x" + part.hex()
        case _:
            return str(part)


def days(day: date) -> int:
    """PostgreSQL's own integer for a date: days since 2000-01-01."""
    return day.toordinal() - EPOCH_ORDINAL


def microseconds(moment: datetime) -> int:
    """PostgreSQL's own integer for a timestamptz: microseconds since 2000-01-01 00:00 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def shown(value: object) -> str:
    """A value as an error shows it: its repr, of at most 60 characters."""
    try:
        text = repr(value[: LONGEST_SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    except Exception:  # an integer of thousands of digits refuses its repr, and so may any foreign object
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def _refuse(
    value: object, key_type: KeyType, detail: str | None = None, hint: str | None = None, sqlstate: str | None = None
) -> NoReturn:
    if value is None:
        detail, hint = "NULL belongs to no shard.", "Pass the value of the partition key."
    raise InvalidKey(
        f"cannot use {shown(value)} as a {key_type} key",
        detail=detail or f"A value of type {type(value).__name__} is not read as {key_type} here.",
        hint=hint or _WANTED[key_type],
        sqlstate=sqlstate,
    )


# SQLSTATEs of PostgreSQL's input functions.
_MALFORMED = "22P02"
_OUT_OF_RANGE = "22003"
_NO_TIME = "22007"
_NO_SUCH_TIME = "22008"
_ODD_HEX = "22023"


_WANTED: dict[KeyType, str] = {
    "bigint": "Pass an int from -2^63 to 2^63-1.",
    "text": "Pass a str.",
    "uuid": "Pass a uuid.UUID, or its text.",
    "bytea": "Pass bytes.",
    "date": "Pass a datetime.date, or text like 2025-12-31.",
    "timestamptz": "Pass a datetime that has a time zone, or text like 2025-12-31 12:00:00+00.",
}

# What int8in of PostgreSQL 14 reads, and later versions too: ASCII digits, one sign, C's blanks around it.
_BIGINT_TEXT = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]{1,19})[ \t\n\v\f\r]*", re.ASCII)
_LONG_TEXT = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*", re.ASCII)


def _bigint(value: object) -> int:
    number = _integer(value)
    if not -(2**63) <= number < 2**63:
        _refuse(value, "bigint", "It is out of the range of bigint.", sqlstate=_OUT_OF_RANGE)
    return number


def _integer(value: object) -> int:
    match value:
        case bool():
            _refuse(value, "bigint", "A boolean is not a number in PostgreSQL.")
        case int():
            return int(value)
        case str():
            digits = _BIGINT_TEXT.fullmatch(value)
            return int(digits[1] + digits[2]) if digits else _refuse_digits(value)
        case Decimal():
            return _integral(value)
        case float():
            _refuse(value, "bigint", "Several bigints can equal one float.")
        case SupportsIndex():  # numpy's integers
            return index(value)
        case _:
            _refuse(value, "bigint")


def _refuse_digits(text: str) -> NoReturn:
    if _LONG_TEXT.fullmatch(text):
        _refuse(text, "bigint", "It is out of the range of bigint.", sqlstate=_OUT_OF_RANGE)
    if re.fullmatch(r"\s*[+-]?[0-9]\w*\s*", text):  # 0x1F, 1_000
        _refuse(text, "bigint", "PostgreSQL reads such a number since version 16 only: it is not read here.")
    _refuse(text, "bigint", "The text is not an integer.", sqlstate=_MALFORMED)


def _integral(value: Decimal) -> int:
    # The exponent first: int(Decimal("1e999999999")) would build a number of a billion digits.
    if not value.is_finite() or value.adjusted() > 18 or value != value.to_integral_value():
        _refuse(value, "bigint", "It is not an integer in the range of bigint.")
    return int(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        _refuse(value, "text", hint="Pass a str: str(value), if the column holds that text.")
    if "\0" in value:
        _refuse(value, "text", "PostgreSQL's text holds no NUL character.")
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(value, "text", "It holds half of a surrogate pair, which UTF-8 cannot write.")
    return str.__str__(value)  # of a StrEnum or other subclass the text itself, as psycopg sends it


# uuid_in: hyphens after any group of four digits, braces around the whole.
_UUID_TEXT = re.compile(r"[0-9a-f]{4}(?:-?[0-9a-f]{4}){7}", re.ASCII | re.IGNORECASE)


def _uuid(value: object) -> UUID:
    if isinstance(value, UUID):
        return value if type(value) is UUID else UUID(int=value.int)
    if not isinstance(value, str):
        _refuse(value, "uuid")
    bare = value[1:-1] if value[:1] == "{" and value[-1:] == "}" else value
    if not _UUID_TEXT.fullmatch(bare):
        _refuse(value, "uuid", "The text is not a uuid.", sqlstate=_MALFORMED)
    return UUID(hex=bare.replace("-", ""))


_HEX_TEXT = re.compile(r"(?:[0-9a-f]{2}|[ \t\n\r])*", re.ASCII | re.IGNORECASE)
_ESCAPED_TEXT = re.compile(rb"(?:[^\\]|\\\\|\\[0-3][0-7]{2})*", re.DOTALL)
_ESCAPE = re.compile(rb"\\(\\|[0-7]{3})")


def _bytea(value: object) -> bytes:
    match value:
        case bytes() | bytearray():
            return bytes(value)
        case memoryview():
            return value.tobytes()
        case str():
            return _bytes_of_text(value)
        case _:
            _refuse(value, "bytea")


def _bytes_of_text(value: str) -> bytes:
    """Both forms of byteain: hexadecimal digits behind a backslash and x, and bytes with octal escapes."""
    if value.startswith("\\x"):
        if not _HEX_TEXT.fullmatch(value, 2):
            _refuse(value, "bytea", "The text is not in pairs of hexadecimal digits.", sqlstate=_ODD_HEX)
        return bytes.fromhex(value[2:])
    encoded = _text(value).encode()
    if not _ESCAPED_TEXT.fullmatch(encoded):
        detail = "In the text a backslash stands neither before another nor before three octal digits."
        _refuse(value, "bytea", detail, sqlstate=_MALFORMED)
    return _ESCAPE.sub(lambda found: found[1] if found[1] == b"\\" else bytes([int(found[1], 8)]), encoded)


# Without one of these a text is neither a date nor a time.
_MAY_BE_A_TIME = re.compile(r"[0-9]|infinity|epoch|now|today|tomorrow|yesterday|allballs", re.IGNORECASE)
# Year first with four digits is read alike under every DateStyle (manual, appendix B.1).
_DATE_TEXT = re.compile(r" *(?:([0-9]{4})([-/])([0-9]{1,2})\2([0-9]{1,2})|([0-9]{4})([0-9]{2})([0-9]{2})) *", re.ASCII)


def _date(value: object) -> date:
    match value:
        case datetime():
            _refuse(value, "date", "It has a time of day.", "Pass value.date(), of the time zone that you mean.")
        case date():
            return value if type(value) is date else date(value.year, value.month, value.day)
        case str():
            return _date_of_text(value)
        case _:
            _refuse(value, "date")


def _date_of_text(value: str) -> date:
    match = _DATE_TEXT.fullmatch(value)
    if match is None:
        detail = "The text is not a date from 0001-01-01 to 9999-12-31 in ISO form."
        _refuse(value, "date", detail, sqlstate=None if _MAY_BE_A_TIME.search(value) else _NO_TIME)
    year, month, day = (int(part) for part in (match[1] or match[5], match[3] or match[6], match[4] or match[7]))
    try:
        return date(year, month, day)
    except ValueError:
        _refuse(value, "date", "There is no such day.", sqlstate=_NO_SUCH_TIME)


_TIMESTAMP_TEXT = re.compile(
    r" *([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.([0-9]{1,6}))?"
    r" ?(?:Z|([+-])(0[0-9]|1[0-5])(?::?([0-5][0-9]))?) *",
    re.ASCII,
)


def _timestamptz(value: object) -> datetime:
    if isinstance(value, str):
        return _moment_of_text(value)
    if not isinstance(value, datetime):
        _refuse(value, "timestamptz")
    if value.utcoffset() is None:
        _refuse(
            value,
            "timestamptz",
            "It has no time zone, so the server would read it in the session's.",
            "Pass value.replace(tzinfo=…), or value.astimezone() if it is local time.",
        )
    if getattr(value, "nanosecond", 0):
        _refuse(value, "timestamptz", "PostgreSQL would round its nanoseconds.", "Round it to microseconds.")
    return _in_utc(value, value)


def _moment_of_text(text: str) -> datetime:
    match = _TIMESTAMP_TEXT.fullmatch(text)
    if not match or (match[3] and match[2].count(":") < 2):
        detail = "The text is not a time in ISO form with its offset from UTC: the server reads it by its settings."
        _refuse(text, "timestamptz", detail, sqlstate=None if _MAY_BE_A_TIME.search(text) else _NO_TIME)
    day, clock, fraction, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=timezone(offset))
    except ValueError as error:
        # PostgreSQL takes 24:00 and a second 60, and makes another moment of it.
        is_other = clock.startswith("24:00") or clock.endswith(":60")
        _refuse(text, "timestamptz", f"The text is not a time: {error}.", sqlstate=None if is_other else _NO_SUCH_TIME)
    return _in_utc(moment.replace(microsecond=int((fraction or "").ljust(6, "0"))), text)


def _in_utc(moment: datetime, value: object) -> datetime:
    try:
        # Through the difference, so that a subclass or another zone's `fold` leaves no trace in the canonical value.
        return _EPOCH + (moment - _EPOCH)
    except OverflowError:
        _refuse(value, "timestamptz", "In UTC it is not in the years 1 to 9999.")


_COERCE: dict[KeyType, Callable[[object], KeyPart]] = {
    "bigint": _bigint,
    "text": _text,
    "uuid": _uuid,
    "bytea": _bytea,
    "date": _date,
    "timestamptz": _timestamptz,
}

_ENCODE: dict[KeyType, Callable[[Any], bytes]] = {
    "bigint": pack_bigint,
    "text": str.encode,
    "uuid": lambda value: value.int.to_bytes(16, "big"),
    "bytea": bytes,
    "date": lambda value: pack_bigint(days(value)),
    "timestamptz": lambda value: pack_bigint(microseconds(value)),
}
