"""The table that `copy_into` fills, as a shard tells of it: its columns, and what would store another key. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedQuery
from ..keys import KeyType, column_problems, cut, varchar_length
from .own_sql import qualified
from .storing import ENFORCED, TRIGGERS, Trigger, triggers

# By column its type, under any domains, with its length; whether its collation is deterministic, how it is generated.
# Then the triggers of the table, and whether the shard itself refuses rows that are not its own.
TARGET_QUERY = qualified(f"""
    with recursive target (oid) as (select pg_catalog.to_regclass(%s)::pg_catalog.oid),
    typed as (
        select a.attname, a.attnum, a.attgenerated, a.attcollation, a.atttypid as type, a.atttypmod as length
        from pg_catalog.pg_attribute a, target
        where a.attrelid = target.oid and a.attnum > 0 and not a.attisdropped
        union all
        select d.attname, d.attnum, d.attgenerated, d.attcollation, t.typbasetype,
               case when d.length = -1 then t.typtypmod else d.length end
        from typed d join pg_catalog.pg_type t on t.oid = d.type where t.typtype = 'd'
    )
    select (select pg_catalog.json_agg(pg_catalog.json_build_array(
                d.attname, d.type::bigint, pg_catalog.format_type(d.type, d.length), d.length,
                coalesce(l.collisdeterministic, true), d.attgenerated <> '', t.typtype = 'e') order by d.attnum)
            from typed d join pg_catalog.pg_type t on t.oid = d.type
            left join pg_catalog.pg_collation l on l.oid = d.attcollation
            where t.typtype <> 'd'),
           {TRIGGERS.format(table="target.oid")},
           {ENFORCED.format(table="target.oid")}
    from target
""")


_WITHOUT_LENGTH = {1042: "pg_catalog.bpchar", 1043: "pg_catalog.varchar"}


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column by its type under any domains; `oid` is that of the type."""

    oid: int
    type: str
    length: int
    deterministic: bool
    generated: bool
    is_enum: bool

    def made(self, default: str) -> str:
        """An expression as a value of the type. A length is left to COPY: it refuses what a cast would cut off."""
        return f"({default})::{_WITHOUT_LENGTH.get(self.oid, self.type)}"


@dataclass(frozen=True, slots=True)
class Target:
    """The table on one shard. `enforced`: the shard refuses rows that belong to others."""

    columns: Mapping[str, TargetColumn]
    triggers: tuple[Trigger, ...]
    enforced: bool


def target(row: Sequence[Any]) -> Target:
    """What the one row of `TARGET_QUERY` tells."""
    columns = {name: TargetColumn(*facts) for name, *facts in row[0] or ()}
    return Target(columns, triggers(row[1]), row[2])


def check_key(target: Target, table: str, key: Mapping[str, KeyType]) -> None:
    """Raise `UnsupportedQuery` where the key that is stored might not be the one by which a row is placed."""
    for name, key_type in key.items():
        column = target.columns[name]
        problems = column_problems(name, column.type, key_type, deterministic=column.deterministic)
        problems += [f"key column {name} is generated"] if column.generated else []
        for problem in problems:
            raise UnsupportedQuery(
                f"{problem}: rows of {table} cannot be placed before they are stored",
                detail="The server would store another key than the one that says where the row belongs.",
                hint="Change the column as check() says, or write the rows on connections of their own shards.",
            )
    for trigger in target.triggers:
        if trigger.on_insert and trigger.may_set(key) and not target.enforced:
            raise UnsupportedQuery(
                f"trigger {trigger.name} may change the key of rows that are loaded into {table}",
                detail="Each row is placed by its key before the trigger runs.",
                hint="Insert them with execute(), which looks at what is stored; "
                f"or let the shards refuse what is not theirs: shardpool topology enforce on {table}",
            )


def stored_key(target: Target, key: Mapping[str, KeyType]) -> Callable[[Any], Any] | None:
    """A function that gives a key as it will be stored; None where that is as it is given.

    A varchar(n) cuts off spaces behind its length; anything else that is too long is an error of the server.
    """
    lengths = [varchar_length(target.columns[name].type) for name in key]
    if not any(lengths):
        return None
    if len(lengths) == 1:
        return lambda value: _cut(value, lengths[0])
    return lambda value: tuple(_cut(part, length) for part, length in zip(value, lengths, strict=True))


def _cut(value: Any, length: int) -> Any:
    return cut(value, length) if isinstance(value, str) else value
