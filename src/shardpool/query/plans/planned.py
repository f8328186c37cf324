"""A statement as it is kept: its plan, its placeholders, and what its parameters may tell of its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any
from uuid import UUID

from psycopg.adapt import AdaptersMap, PyFormat

from ..._call import Params
from ...keys import KeyType
from ...topology import Topology
from ..text.placeholders import Converted
from .plan import Plan

# For these the fast look-up of a key is right whatever the statement compares it with.
_EXACT: Mapping[KeyType, tuple[type, ...]] = {"bigint": (int,), "text": (str,)}


class Planned:
    """A statement as it is kept: its plan, its placeholders, and a short way for one that a parameter routes."""

    __slots__ = (
        "converted",
        "count",
        "exact",
        "foreign",
        "generation",
        "keyspace",
        "place",
        "plan",
        "reading",
        "topology",
        "values",
    )

    def __init__(
        self,
        plan: Plan,
        converted: Converted | None,
        topology: Topology,
        generation: int,
        foreign: frozenset[type] = frozenset(),
    ) -> None:
        # Types of which the connections do not send what psycopg would: their values tell nothing of a key.
        self.foreign = foreign
        self.plan = plan
        self.converted = converted
        # What it was made by: under another topology, or another generation of what the shards have told, it is void.
        self.topology = topology
        self.generation = generation
        # The settings by which its text was read, where others would have it mean something else.
        self.reading: Mapping[str, str | None] | None = None
        # Of the keyspace, when a parameter alone routes it.
        self.keyspace: str | None = None
        self.exact: tuple[type, ...] = ()
        self.place: int | str = 0
        self.count = len(converted.names) if converted is not None else 0
        # Those of literals, where these stand for parameters: see `patterns`.
        self.values: Sequence[Any] | None = None
        if converted is not None and plan.key_param is not None:
            keyspace, number = plan.key_param
            self.exact = exact_types(topology, keyspace, foreign)
            self.keyspace = keyspace if self.exact else None
            self.place = converted.names[number]

    def arrange(self, params: Params | None) -> list[Any]:
        """The parameters as the plan may look at them."""
        values = self.given(params)
        return [_SENT_OTHERWISE if self._is_foreign(value) else value for value in values] if self.foreign else values

    def given(self, params: Params | None) -> list[Any]:
        """The parameters in their order."""
        return [] if params is None or self.converted is None else self.converted.arrange(params)

    def _is_foreign(self, value: Any) -> bool:
        values = value if type(value) is list else [value]
        return any(type(one) in self.foreign for one in values)


def exact_types(topology: Topology, keyspace: str, foreign: frozenset[type] = frozenset()) -> tuple[type, ...]:
    """The types of values whose place the fast look-up tells."""
    exact = _EXACT.get(topology.keyspaces[keyspace].key_types[0], ())
    return tuple(type_ for type_ in exact if type_ not in foreign)


class AdaptedValue:
    """Stands for the value of a parameter that is sent as the caller's own adapters make it."""


_SENT_OTHERWISE = AdaptedValue()
_KEY_VALUES = (int, str, bytes, Decimal, UUID, date, datetime)


class Adapted:
    """The adapters of a connection, by which psycopg makes text of its objects; in UTF-8."""

    connection = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters

    @cached_property
    def foreign(self) -> frozenset[type]:
        """The types of keys that are not dumped by psycopg's own dumpers."""
        formats = (PyFormat.AUTO, PyFormat.TEXT, PyFormat.BINARY)
        return frozenset(
            type_
            for type_ in _KEY_VALUES
            if any(not _is_own(self.adapters.get_dumper(type_, format_)) for format_ in formats)
        )


def _is_own(dumper: type) -> bool:
    return dumper.__module__.partition(".")[0] in ("psycopg", "psycopg_c", "psycopg_binary")
