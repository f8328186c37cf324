"""psycopg's placeholders (`%s`, `%b`, `%t`, `%(name)s`, `%%`) turned into PostgreSQL's `$1`, `$2`, …

The rules are those of https://www.psycopg.org/psycopg3/docs/basic/params.html: with no parameters at all the text is
left as it is, `%` included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from .remembered import remembered

_PLACEHOLDER = re.compile(rb"%(?:\((?P<name>[^)]+)\)(?P<named>.)|(?P<plain>.))")
_FORMATS = {b"s": "s", b"b": "b", b"t": "t"}


@dataclass(frozen=True, slots=True)
class Converted:
    """`text` with `$n`; `names[n-1]` is the name or position of the parameter, `formats[n-1]` its letter."""

    text: bytes
    names: tuple[str | int, ...]
    formats: tuple[str, ...]

    def arrange(self, params: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        """The parameters in the order of `$1`, `$2`, …; raises as psycopg does when they do not fit."""
        if self.names and isinstance(self.names[0], str):
            if not isinstance(params, Mapping):
                raise TypeError("the query has named placeholders: the parameters must be a mapping")
            missing = [str(name) for name in self.names if name not in params]
            if missing:
                raise psycopg.ProgrammingError(f"query parameter missing: {', '.join(sorted(missing))}")
            return [params[str(name)] for name in self.names]
        if isinstance(params, Mapping) and self.names:
            raise TypeError("the query has positional placeholders: the parameters must be a sequence")
        if len(params) != len(self.names) and not isinstance(params, Mapping):
            raise psycopg.ProgrammingError(
                f"the query has {len(self.names)} placeholders but {len(params)} parameters were passed"
            )
        return list(params) if self.names else []


@remembered
def convert(query: bytes) -> Converted:
    """A query with psycopg's placeholders as one with PostgreSQL's. A name that comes twice is one parameter."""
    names: list[str | int] = []
    formats: list[str] = []

    def replace(match: re.Match[bytes]) -> bytes:
        name, kind = match["name"], match["named"] or match["plain"]
        if kind == b"%" and name is None:
            return b"%"
        if kind not in _FORMATS:
            raise psycopg.ProgrammingError(_complaint(match[0], kind))
        number = _number(names, None if name is None else name.decode())
        if number > len(formats):
            formats.append(_FORMATS[kind])
        elif formats[number - 1] != _FORMATS[kind]:
            raise psycopg.ProgrammingError(f"placeholder '{name.decode()}' cannot have different formats")
        return b"$%d" % number

    return Converted(_PLACEHOLDER.sub(replace, query), tuple(names), tuple(formats))


def _number(names: list[str | int], name: str | None) -> int:
    """The `n` of the placeholder's `$n`; a new one is added to the names."""
    if names and isinstance(names[0], str) != (name is not None):
        raise psycopg.ProgrammingError("positional and named placeholders cannot be mixed")
    if name is not None and name in names:
        return names.index(name) + 1
    names.append(len(names) if name is None else name)
    return len(names)


def _complaint(placeholder: bytes, kind: bytes) -> str:
    if kind in b"( ":
        return f"incomplete placeholder: '{placeholder.decode(errors='replace')}'; a '%' of its own is written '%%'"
    return (
        f"only '%s', '%b', '%t' are allowed as placeholders, got '{placeholder.decode(errors='replace')}'; "
        "a '%' of its own is written '%%'"
    )
