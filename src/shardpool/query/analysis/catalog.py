"""What the shards know that SQL text does not tell: columns, keys, collations, functions. Values."""

from __future__ import annotations

from collections.abc import Mapping, Set
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

from ...control.storing import Cascade, Trigger


@dataclass(frozen=True, slots=True)
class Sequence:
    """What numbers a column: its name, quoted and with its schema, its step, and whether it is GENERATED ALWAYS."""

    name: str
    step: int
    always: bool


@dataclass(frozen=True, slots=True)
class Column:
    """`type` as format_type() spells it; `collation` is None for types that have none.

    `default` is SQL, `identity`, or None; `sequence` is the one that it draws from.
    """

    name: str
    type: str
    not_null: bool
    collation: str | None
    deterministic: bool
    default: str | None
    generated: bool = False
    of_domain: bool = False
    sequence: Sequence | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table, alike on all shards. `key` is its primary key, empty when it has none.

    `unique` are the names of its unique indexes and exclusion constraints, each with the columns that are equal in rows
    that conflict; None stands for an expression. `rules` are those that rewrite writes, each with what it rewrites.
    `cascades` are the foreign keys that refer to it, and what a write does by them. `has_triggers` tells also of
    triggers that run on other sessions only.
    """

    name: str
    kind: str
    row_security: bool
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unique: tuple[tuple[str, frozenset[str | None]], ...] = ()
    triggers: tuple[Trigger, ...] = ()
    rules: tuple[tuple[str, str], ...] = ()
    has_triggers: bool = False
    cascades: tuple[Cascade, ...] = ()

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Function:
    """All functions of one name together: `kinds` of pg_proc.prokind, the worst volatility, whether any gives a set.

    A type is one of kind `t`: where no function takes the argument, `type(x)` is a cast.
    """

    kinds: frozenset[str]
    volatility: str
    gives_set: bool
    built_in: bool = True

    @property
    def is_aggregate(self) -> bool:
        return "a" in self.kinds


# What a function takes: for each argument the types of what may be given for it, implicit casts included; None is any.
Takes = Ordered[Set[str] | None]


@dataclass(frozen=True)
class Catalog:
    """What all shards that were compared agree on. `visible` maps a table's bare name to its qualified one.

    `functions` and `operators` are by name all that there are. Where others have one of the name of PostgreSQL's own,
    and what they take is known, `other_functions` and `other_operators` tell it, and `own` is PostgreSQL's.
    """

    tables: Mapping[str, Table]
    visible: Mapping[str, str]
    functions: Mapping[str, Function]
    operators: Mapping[str, str]
    own: Mapping[str, Function] = field(default_factory=dict)
    other_functions: Mapping[str, Ordered[Takes]] = field(default_factory=dict)
    other_operators: Mapping[str, Ordered[Takes]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    collation: str = ""
    # The shards whose single tables are among the tables.
    told_by: frozenset[str] = frozenset()
    # By the name of a function that was asked for, the language, the text and the volatility of each of that name.
    bodies: Mapping[str, Ordered[tuple[str, str, str]]] = field(default_factory=dict)

    def resolve(self, schema: str, name: str) -> str | None:
        """The qualified name of a table as the servers' search_path finds it; None when they find nothing known."""
        if schema:
            return f"{schema}.{name}"
        return self.visible.get(name)

    def function(self, names: Ordered[str]) -> Function | None:
        """What a call of this name, perhaps with its schema, may mean."""
        own = self.own.get(names[-1]) if names[:-1] == ["pg_catalog"] else None
        return own or self.functions.get(names[-1])

    def volatility(self, operator: Ordered[str]) -> str:
        """The worst that an operator of this name, perhaps with its schema, may be; PostgreSQL's own are IMMUTABLE."""
        return "i" if operator[:-1] == ["pg_catalog"] or not operator else self.operators.get(operator[-1], "i")

    def has_function(self, name: str) -> bool:
        """Whether there is a function of that name, not a type alone."""
        function = self.functions.get(name)
        return function is not None and function.kinds != {"t"}

    def sorts_by_bytes(self, collation: str | None) -> bool:
        """Whether text of this collation is ordered by its UTF-8 bytes."""
        name = self.collation if collation == "default" else collation
        encodings = {self.settings.get("server_encoding"), self.settings.get("client_encoding")}
        return name in ("C", "POSIX", "ucs_basic") and encodings == {"UTF8"}


class NeedsShard(Exception):
    """A single table of this shard is meant, and the shard has not been asked yet."""

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.shard = shard


class NeedsBodies(Exception):
    """What functions of these names do is asked, and the shards have not been asked yet."""

    def __init__(self, names: Set[str]) -> None:
        super().__init__(*sorted(names))
        self.names = names
