"""The file's shape as pydantic models: which fields there are, and what each is for. The JSON Schema is made of it.

What needs more than one field (owners, names that must exist, secrets) is checked afterwards, on the nodes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ..partitioning import KEY_TYPES, MAX_BUCKETS, KeyType
from ._fields import (
    Duration,
    FleetName,
    KeyColumns,
    KeyspaceName,
    Lag,
    LookedUp,
    Natural,
    Positive,
    ShardName,
    ShardReference,
    TableName,
    wrong,
)
from ._libpq import KEYWORDS, VALUES

_OWNED = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\s*[0-9]+\s*(-\s*[0-9]+\s*)?$"}]
}
_KEY = {"type": ["string", "integer"]}
_PINNED = {
    "type": "object",
    "properties": {"key": {"type": ["string", "integer", "array"]}, "shard": {"type": "string"}},
    "required": ["key", "shard"],
    "additionalProperties": False,
}


class _Fields(BaseModel):
    # Only the whole file is ever validated: building a validator for each part of it too takes 20 ms of every start.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)


class Pool(_Fields):
    """Connections of one endpoint, per process."""

    min_size: Natural | None = Field(None, description="Connections kept open. 0 if not given.")
    max_size: Positive | None = Field(None, description="Connections at most. 10 if not given.")
    max_waiting: Natural | None = Field(None, description="Calls that may wait for a connection. 1000 if not given.")
    max_lifetime: Duration | None = Field(None, description="Age at which a connection is replaced. 1h if not given.")
    max_idle: Duration | None = Field(
        None, description="Time after which an unused connection is closed. 10m if not given."
    )
    reset: Literal["dirty", "always", "never"] | None = Field(
        None,
        description="When a session is reset before its next caller. dirty if not given: when a statement may have "
        "left something in it; never behind a transaction pooler.",
    )


def _keyword_schema(keyword: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": KEYWORDS[keyword]}
    if keyword not in VALUES:
        return schema | {"type": ["string", "integer"]}
    words = [int(word) if word.isdigit() else word for word in VALUES[keyword]]
    return schema | {"anyOf": [{"enum": words}, {"type": "string", "pattern": r"^[01]$|\$\{"}]}


class Connect(_Fields):
    """How to connect: libpq's keywords, and where the password comes from."""

    # libpq's keywords are extra fields here: they are checked by name against the table of `_libpq.py`.
    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True, defer_build=True)

    password: Annotated[Any, WithJsonSchema({"type": ["string", "integer"]})] = Field(
        None, description='"${VARIABLE}". A plain password needs plain_passwords: allow.'
    )
    password_file: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(
        None, description="File whose first line is the password; relative to this file."
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["properties"] = {keyword: _keyword_schema(keyword) for keyword in KEYWORDS} | schema["properties"]
        schema["additionalProperties"] = False
        return schema


class EndpointFields(Connect):
    """One place to connect to."""

    pool: Pool | None = Field(None, description="Overrides the shard's pool, field by field.")
    pooler: Literal["none", "session", "transaction"] | None = Field(
        None, description="A connection pooler in front of the server, and its mode."
    )


class ReplicaFields(EndpointFields):
    """A replica, to read from."""

    max_lag: Lag | None = Field(None, description="Not read from while it is further behind than this.")


class HostFields(_Fields):
    """One of several nodes of a shard, of which one is the primary."""

    host: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(description=KEYWORDS["host"])
    port: Annotated[Any, WithJsonSchema({"type": ["integer", "string"]})] = Field(None, description=KEYWORDS["port"])


class _OrUrl:
    """Says in the JSON Schema that a URL will do; it is replaced by its parts before the models see it."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        url = {
            "type": "string",
            "pattern": r"^postgres(ql)?://|^\$\{",
            "examples": ["postgresql://pg-1.internal:5432/shop"],
        }
        return {"anyOf": [handler(core_schema), url]}


class ShardFields(_Fields):
    """One PostgreSQL database: a primary and its replicas, or several hosts that are asked who is primary."""

    primary: Annotated[EndpointFields, _OrUrl()] | None = Field(None, description="The server that takes writes.")
    replicas: list[Annotated[ReplicaFields, _OrUrl()]] = Field([], description="Servers to read from.")
    hosts: list[HostFields] | None = Field(
        None, description="Instead of primary and replicas: nodes of which one is primary, found by asking."
    )
    connect: Connect | None = Field(None, description="For all endpoints of this shard; overrides defaults.connect.")
    pool: Pool | None = Field(None, description="For all endpoints of this shard; overrides defaults.pool.")
    pooler: Literal["none", "session", "transaction"] | None = Field(
        None, description="For all endpoints of this shard."
    )
    max_lag: Lag | None = Field(None, description="For all replicas of this shard.")


class Defaults(_Fields):
    """What holds for every shard that does not say otherwise."""

    connect: Connect | None = Field(None, description="Connection settings of every endpoint.")
    pool: Pool | None = Field(None, description="Pool of every endpoint.")
    pooler: Literal["none", "session", "transaction"] | None = Field(
        None, description="Pooler in front of every server."
    )
    max_lag: Lag | None = Field(None, description="How far behind a replica may be.")
    timeout: Duration | None = Field(None, description="The deadline of a call that gives none. 5s if not given.")
    server_connections: Positive | None = Field(
        None,
        description=(
            "Connections of one process to one server (host and port) at most: the pools of all endpoints on it share "
            "them, each by its max_size."
        ),
    )


class HashFields(_Fields):
    """Rows are spread by the hash of their key."""

    function: Literal["murmur3", "postgres"] = Field("murmur3", description="postgres: as PARTITION BY HASH does it.")
    buckets: Positive = Field(
        description=f"How many buckets, at most {MAX_BUCKETS}. It cannot change later: 4096 is a good number."
    )
    owners: Annotated[
        dict[Any, Any],
        WithJsonSchema(
            {
                "type": "object",
                "additionalProperties": {"anyOf": [*_OWNED["anyOf"], {"type": "array", "items": _OWNED}]},
            }
        ),
    ] = Field(description="Shard → its buckets: 0-1023, 7, or a list of these. Every bucket has exactly one owner.")


class RangeFields(_Fields):
    """The keys from the end of the entry before, up to but without `below`."""

    below: Annotated[Any, WithJsonSchema(_KEY)] = Field(
        None, description="The first key that is not in it. The last entry may have none."
    )
    shard: ShardReference = Field(description="The shard that owns these keys.")


def _key_types(value: Any) -> tuple[KeyType, ...]:
    named = value if isinstance(value, list) else [value]
    types = tuple(kind for kind in named if isinstance(kind, str) and kind in KEY_TYPES)
    if not named or len(types) != len(named):
        raise wrong("must be a key type, or a list of these", f"Key types: {', '.join(KEY_TYPES)}.")
    return types


_KEY_TYPE_SCHEMA = {"enum": list(KEY_TYPES)}


class KeyspaceFields(_Fields):
    """Tables that are sharded by the same partition key in the same way."""

    key: Annotated[
        tuple[KeyType, ...],
        BeforeValidator(_key_types),
        WithJsonSchema({"anyOf": [_KEY_TYPE_SCHEMA, {"type": "array", "items": _KEY_TYPE_SCHEMA, "minItems": 1}]}),
    ] = Field(description="Type of the partition key, or the types of its columns.")
    hash: HashFields | None = Field(None, description="Place rows by the hash of the key.")
    range: list[RangeFields] | None = Field(None, description="Place rows by ascending ranges of the key.")
    listed: Annotated[
        dict[Any, Any] | None,
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "array"}}),
    ] = Field(None, alias="list", description="Place rows by a list of keys: shard → its keys.")
    default: ShardReference | None = Field(None, description="With list: the shard of every key that is not listed.")
    pinned: Annotated[
        Any,
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "object", "additionalProperties": {"type": "string"}},
                    {"type": "array", "items": _PINNED},
                ]
            }
        ),
    ] = Field(None, description="With hash: keys with a home of their own, key → shard.")
    tables: dict[TableName, KeyColumns] = Field({}, description="Table → the column, or columns, that hold the key.")
    lookup: dict[LookedUp, Literal["unique"]] = Field(
        {},
        description="table.column → unique: a column of a sharded table, of the type of this key, whose values are "
        "unique over the fleet. The entries, of which a value leads to its row, are sharded here, by value.",
    )


class IntervalFields(_Fields):
    """Neighbouring entries of a range, from a key on and up to but without another."""

    start: Annotated[Any, WithJsonSchema(_KEY)] = Field(
        None, alias="from", description="The first key. Not given: from the lowest."
    )
    below: Annotated[Any, WithJsonSchema(_KEY)] = Field(
        None, description="The first key that is not in it. Not given: to the highest."
    )


class MoveFields(_Fields):
    """Rows that are on their way to another shard. It is written by `shardpool move`, and not to be changed by hand."""

    number: Positive = Field(description="By which its shards know the move.")
    state: Literal["copying", "guarded", "moved"] = Field(
        description="copying: the rows are copied. guarded: they are handed over, and the shards say who owns them. "
        "moved: the target owns them, and the source still has a copy."
    )
    source: ShardReference = Field(alias="from", description="The shard that gives them away.")
    target: ShardReference = Field(alias="to", description="The shard that gets them.")
    keyspace: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(
        None, description="The keyspace whose buckets move; then one of buckets, keys and range says which."
    )
    buckets: Annotated[Any, WithJsonSchema({"anyOf": [*_OWNED["anyOf"], {"type": "array", "items": _OWNED}]})] = Field(
        None, description="Hash buckets: 0-63, 7, or a list of these."
    )
    keys: Annotated[
        list[Any] | None, WithJsonSchema({"type": "array", "items": {"type": ["string", "integer", "array"]}})
    ] = Field(None, description="Keys with a bucket of their own: pinned or listed ones.")
    default: Literal[True] | None = Field(None, description="Every key that is not listed.")
    range: IntervalFields | None = Field(None, description="Whole entries of a range.")
    table: TableName | None = Field(None, description="A single table, instead of a keyspace's buckets.")


class TopologyFile(_Fields):
    """A shardpool topology: which PostgreSQL server owns which rows."""

    version: Annotated[Any, WithJsonSchema({"const": 1})] = Field(description="Version of this format: 1.")
    fleet: FleetName = Field(description="Name of the fleet; its shards carry it as their identity.")
    epoch: Positive = Field(description="Version of the topology. Raise it with every change.")
    defaults: Defaults | None = Field(None, description="What holds for every shard that does not say otherwise.")
    shards: dict[ShardName, ShardFields] = Field(description="The PostgreSQL databases of the fleet, by name.")
    keyspaces: dict[KeyspaceName, KeyspaceFields] = Field(
        {}, description="The sharded tables, by how they are sharded."
    )
    reference_tables: list[TableName] = Field([], description="Tables with a full copy on every shard.")
    single_tables: dict[TableName, ShardReference] = Field(
        {}, description="Tables that live on one shard: table → shard."
    )
    moves: list[MoveFields] = Field([], description="What is on its way to another shard just now.")
    control: Literal["required", "none"] = Field(
        "required", description="none: the shards carry no shardpool schema, and what it would check is not checked."
    )
    topology: Literal["shards", "file"] = Field(
        "shards",
        description="Where a running router learns of a newer topology: from the shards too, or from this file alone.",
    )
    id_block: Positive = Field(
        1000,
        description="How many numbers of a sequence a router draws at once for rows that it inserts. 1: one by one, "
        "with few gaps.",
    )
    plain_passwords: Literal["refuse", "allow"] = Field(
        "refuse", description="allow: a password may stand in this file or in a URL."
    )
