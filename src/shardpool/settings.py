"""The settings of a session that decide what values mean or look like, and how they are told of. Pure.

They come from the server's files, from ALTER DATABASE or ROLE, from `connect: options`, PGOPTIONS or `configure`, and
each connection may have its own: see https://www.postgresql.org/docs/current/config-setting.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

NAMES = (
    "TimeZone DateStyle IntervalStyle search_path extra_float_digits bytea_output lc_monetary lc_numeric lc_time "
    "xmloption xmlbinary server_encoding client_encoding default_text_search_config array_nulls transform_null_equals "
    "standard_conforming_strings backslash_quote quote_all_identifiers timezone_abbreviations row_security "
    "pg_trgm.similarity_threshold pg_trgm.word_similarity_threshold pg_trgm.strict_word_similarity_threshold"
).split()

TOLD = f"""\
(SELECT pg_catalog.json_object_agg(s.name, pg_catalog.current_setting(s.name, true))
 FROM pg_catalog.unnest('{{{",".join(NAMES)}}}'::pg_catalog.text[]) s (name))::pg_catalog.text"""
"""SQL of one text, the settings as they are where it is read; equal texts are equal settings."""


@lru_cache(maxsize=64)
def read(told: str) -> Mapping[str, str | None]:
    """A text of `TOLD` by name; None is a setting that the server does not have."""
    found: Mapping[str, str | None] = json.loads(told)
    return found


def difference(one: str, other: str) -> tuple[str, str | None, str | None] | None:
    """The first setting that two texts of `TOLD` tell otherwise, with both values; None when they agree."""
    if one == other:
        return None
    ours, theirs = read(one), read(other)
    name = next(name for name in ours if ours[name] != theirs[name])
    return name, ours[name], theirs[name]
