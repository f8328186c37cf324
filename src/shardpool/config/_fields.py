"""The scalar types of the file's fields: what each accepts, in its own words, and as a JSON Schema.

Whole numbers and durations may be text too, since `"${VARIABLE}"` gives text.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_NAME = 63
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_TABLE = re.compile(r"(?:[^\W\d][\w$]*\.)?[^\W\d][\w$]*")
_WHOLE = re.compile(r"[0-9]{1,18}")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_RESERVED_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast", "shardpool"})
_REFERENCE = r"\$\{"


def wrong(message: str, hint: str | None = None) -> PydanticCustomError:
    """A validation error with our own words; they may not repeat the value."""
    return PydanticCustomError("shardpool", "{text}", {"text": message, "hint": hint})


def _whole(value: Any) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if type(value) is int:
        return value
    raise wrong("must be a whole number")


def _at_least(least: int) -> AfterValidator:
    def check(value: int) -> int:
        if value < least:
            raise wrong(f"must be {least} or more")
        return value

    return AfterValidator(check)


def _whole_schema(least: int) -> WithJsonSchema:
    return WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": least}, {"type": "string", "pattern": rf"^[0-9]+$|{_REFERENCE}"}]}
    )


Natural = Annotated[int, BeforeValidator(_whole), _at_least(0), _whole_schema(0)]
Positive = Annotated[int, BeforeValidator(_whole), _at_least(1), _whole_schema(1)]


def _seconds(value: Any) -> float:
    if type(value) in (int, float) and value >= 0:
        return float(value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise wrong("must be a duration", "Write 250ms, 5s, 1m or 1h, or a number of seconds.")
    return float(match[1]) * _SECONDS[match[2]]


def _more_than_zero(value: float) -> float:
    if value <= 0:
        raise wrong("must be more than 0 seconds")
    return value


_DURATION_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": rf"^[0-9]+(\.[0-9]+)? ?(ms|s|m|h)?$|{_REFERENCE}"},
        ],
        "examples": ["250ms", "5s", "1m"],
    }
)
Duration = Annotated[float, BeforeValidator(_seconds), AfterValidator(_more_than_zero), _DURATION_SCHEMA]
Lag = Annotated[float, BeforeValidator(_seconds), _DURATION_SCHEMA]


def _name(longest: int, *, variable: bool = False) -> Any:
    hint = f"Lower case letters, digits, _ and -, a letter first, at most {longest} characters."

    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest or not _NAME.fullmatch(value):
            raise wrong("is not a name as it is allowed here", hint)
        return value

    pattern = rf"^[a-z][a-z0-9_-]{{0,{longest - 1}}}$" + (rf"|{_REFERENCE}" if variable else "")
    return Annotated[str, BeforeValidator(check), WithJsonSchema({"type": "string", "pattern": pattern})]


def _table(value: Any) -> str:
    if not isinstance(value, str) or not _TABLE.fullmatch(value) or any(_too_long(part) for part in value.split(".")):
        raise wrong(
            "is not a table name", "Write name or schema.name, of at most 63 bytes each, without quotes inside."
        )
    if "." in value and value.split(".")[0] in _RESERVED_SCHEMAS:
        raise wrong(
            "is a table of a schema that belongs to PostgreSQL or shardpool", "Only tables of your own are placed."
        )
    return value


def _column(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or _too_long(value) or not value.isprintable():
        raise wrong("is not a column name", "Write the name of the column that holds the partition key.")
    return value


def _lookup(value: Any) -> str:
    if not isinstance(value, str) or "." not in value:
        raise wrong("is not a column of a table", "Write table.column, or schema.table.column.")
    table, _, column = value.rpartition(".")
    return f"{_table(table)}.{_column(column)}"


def _too_long(name: str) -> bool:
    return len(name.encode()) > MAX_NAME  # PostgreSQL cuts longer identifiers off (NAMEDATALEN)


def _columns(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and value:
        return tuple(_column(part) for part in value)
    return (_column(value),)


def _shard(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong("must be the name of a shard")
    return value


TableName = Annotated[
    str, BeforeValidator(_table), WithJsonSchema({"type": "string", "examples": ["orders", "app.orders"]})
]
KeyColumns = Annotated[
    tuple[str, ...],
    BeforeValidator(_columns),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
LookedUp = Annotated[
    str, BeforeValidator(_lookup), WithJsonSchema({"type": "string", "examples": ["users.email", "app.users.email"]})
]
ShardReference = Annotated[str, BeforeValidator(_shard), WithJsonSchema({"type": "string"})]
FleetName: Any = _name(MAX_NAME, variable=True)
ShardName: Any = _name(MAX_NAME)
KeyspaceName: Any = _name(48)
