"""The settings of a session that decide what values mean or look like, and how they are told of. Pure.

They come from the server's files, from ALTER DATABASE or ROLE, from `connect: options`, PGOPTIONS or `configure`, and
each connection may have its own: see https://www.postgresql.org/docs/current/config-setting.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..quoting import quote_literal

NAMES = (
    "TimeZone DateStyle IntervalStyle search_path extra_float_digits bytea_output lc_monetary lc_numeric lc_time "
    "xmloption xmlbinary server_encoding client_encoding default_text_search_config array_nulls transform_null_equals "
    "standard_conforming_strings backslash_quote quote_all_identifiers timezone_abbreviations row_security "
    "pg_trgm.similarity_threshold pg_trgm.word_similarity_threshold pg_trgm.strict_word_similarity_threshold"
).split()

SETTINGS = f"""\
(SELECT pg_catalog.json_object_agg(s.name, pg_catalog.current_setting(s.name, true))
 FROM pg_catalog.unnest('{{{",".join(NAMES)}}}'::pg_catalog.text[]) s (name))::pg_catalog.text"""
"""SQL of one text, the settings as they are where it is read; equal texts are equal settings."""


@lru_cache(maxsize=64)
def read(text: str) -> Mapping[str, str | None]:
    """A text of `SETTINGS` by name; None is a setting that the server does not have."""
    settings: Mapping[str, str | None] = json.loads(text)
    return settings


def difference(one: str, other: str) -> tuple[str, str | None, str | None] | None:
    """The first setting that two texts of `SETTINGS` tell otherwise, with both values; None when they agree."""
    if one == other:
        return None
    ours, theirs = read(one), read(other)
    name = next(name for name in ours if ours[name] != theirs[name])
    return name, ours[name], theirs[name]


# By these the planner reads a statement, or compares what comes of it.
_READING = (
    "standard_conforming_strings",
    "backslash_quote",
    "transform_null_equals",
    "server_encoding",
    "client_encoding",
)


def reading_difference(text: str, planned: Mapping[str, str | None]) -> tuple[str, str | None, str | None] | None:
    """The first setting by which statements are planned that is another one here than there, with both values."""
    ours = read(text)
    return next(((name, ours[name], planned[name]) for name in _READING if ours[name] != planned[name]), None)


def is_read_alike(text: str, planned: Mapping[str, str | None]) -> bool:
    """Whether these settings are those of a plan."""
    ours = read(text)
    return all(ours[name] == value for name, value in planned.items())


# Text that goes from server to server is written as pg_dump has it written, and read so.
_WRITTEN = {"DateStyle": "ISO", "IntervalStyle": "postgres", "extra_float_digits": "3"}
_READ = {"array_nulls": "on", "xmloption": "content"}


def _is_harmless(name: str, value: str | None) -> bool:
    if name == "DateStyle":
        return (value or "").startswith("ISO")
    if name == "extra_float_digits":
        # From 1 on, all write the shortest text that is this very number.
        return int(value or 0) > 0
    return value == {**_WRITTEN, **_READ}[name]


def are_exact(settings: Mapping[str, str | None]) -> bool:
    """Whether values are what they were when sessions with these settings have written and read them as texts."""
    return all(_is_harmless(name, settings[name]) for name in (*_WRITTEN, *_READ) if settings.get(name) is not None)


@dataclass(frozen=True, slots=True)
class Transport:
    """How rows go from server to server as text that does not depend on the settings of the sessions.

    `written` and `read` are the settings that have to be others while they do, by name, with the session's own value.
    """

    encoding: str = ""
    written: tuple[tuple[str, str], ...] = ()
    read: tuple[tuple[str, str], ...] = ()

    def out(self, query: str) -> str:
        """The statement that writes the rows of a query, whose own expressions have the session's settings.

        Not one row leaves before all are made: only then are the settings changed.
        """
        options = self._options
        if not self.written:
            return f"COPY ({query}) TO STDOUT{options}"
        fixed = ", ".join(f"pg_catalog.set_config('{name}', '{_WRITTEN[name]}', true)" for name, _ in self.written)
        made = "(SELECT pg_catalog.count(*) FROM q) IS NOT NULL"
        rows = f"WITH q AS MATERIALIZED ({query}) SELECT q.* FROM q, (SELECT {fixed} WHERE {made} OFFSET 0) AS s"
        return f"COPY ({rows}) TO STDOUT{options}; {_set_locally(self.written)}"

    def into(self, table: str) -> str:
        """The statement that reads such rows into a table."""
        before = _set_locally([(name, _READ[name]) for name, _ in self.read])
        after = _set_locally(self.read)
        return "; ".join(filter(None, (before, f"COPY {table} FROM STDIN{self._options}", after)))

    @property
    def _options(self) -> str:
        return f" (ENCODING '{self.encoding}')" if self.encoding else ""


def _set_locally(values: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"SET LOCAL {name} = {quote_literal(value)}" for name, value in values)


@lru_cache(maxsize=64)
def transport(text: str) -> Transport:
    """How rows go between sessions with these settings."""
    settings = read(text)

    def harmful(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
        return tuple((name, settings[name] or "") for name in names if not _is_harmless(name, settings[name]))

    server, client = settings["server_encoding"] or "", settings["client_encoding"]
    return Transport(server if server != client else "", harmful(_WRITTEN), harmful(_READ))
