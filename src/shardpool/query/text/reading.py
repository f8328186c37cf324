"""A statement as the servers' settings have it read, written so that it is read alike under any. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg

from ...errors import UnsupportedQuery
from .statement import deparse, inner, kind, parse, strings
from .tree import copy, parts

Settings = Mapping[str, str | None]

# A text in quotes in which a backslash escapes, and its continuations on the next lines.
_ESCAPING = r"'(?:[^'\\]|\\.|'')*+'(?:\s*\n\s*'(?:[^'\\]|\\.|'')*+')*"
_COMMENT = r"/\*(?:[^*/]|\*(?!/)|/(?!\*)|/\*(?:[^*]|\*(?!/))*\*/)*\*/"
# https://www.postgresql.org/docs/current/sql-syntax-lexical.html
_TOKEN = re.compile(
    rf"""--[^\n]* | {_COMMENT} | "[^"]*" | (?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag)
    | [eE]{_ESCAPING} | [bBxX]'[^']*' | (?P<special>[nN]|[uU]&){_ESCAPING}
    | [^\W\d][\w$]* | (?P<plain>{_ESCAPING}) | (?P<open>')""",
    re.VERBOSE | re.DOTALL,
)
_NULL_BESIDE_EQUALS = re.compile(r"=\s*\(*\s*null\b|\bnull\s*\)*\s*=", re.IGNORECASE)


def depends_on(sql: str) -> tuple[str, ...]:
    """The settings by which a statement may mean one thing or another."""
    doubtful = {
        "standard_conforming_strings": "\\" in sql,
        "transform_null_equals": bool(_NULL_BESIDE_EQUALS.search(sql)),
    }
    return tuple(name for name, depends in doubtful.items() if depends)


def as_read(sql: str, settings: Settings) -> str:
    """The statement as servers with these settings read it; raises `UnsupportedQuery` where that cannot be told."""
    if settings.get("standard_conforming_strings") == "off" and "\\" in sql:
        sql = _TOKEN.sub(_escaping, sql)
    if settings.get("transform_null_equals") == "on" and _NULL_BESIDE_EQUALS.search(sql):
        sql = _with_null_tests(sql)
    return sql


def _escaping(token: re.Match[str]) -> str:
    r"""`'a\\b'` as `E'a\\b'`, which means the same whatever the setting is."""
    text = token.group()
    if token["open"]:
        raise psycopg.errors.SyntaxError("unterminated quoted string")
    if token["special"] and "\\" in text:
        raise UnsupportedQuery(
            f"{token['special']}'…' with a backslash is not read where standard_conforming_strings is off",
            hint="Write it as E'…', or turn standard_conforming_strings on.",
        )
    # Behind a blank: what is right before it may be a word.
    return f" E{text}" if token["plain"] and "\\" in text else text


def _with_null_tests(sql: str) -> str:
    trees = parse(sql)
    if len(trees) != 1:
        return sql
    _replace_below(trees[0])
    return deparse(trees[0])


def _replace_below(message: Any) -> None:
    for _, child in parts(message):
        if kind(child) == "Node":
            _replace(child)
        _replace_below(child)


def _replace(node: Any) -> None:
    """`x = NULL` is `x IS NULL`: transformAExprOp of PostgreSQL's parse_expr.c."""
    message = inner(node)
    if kind(message) != "A_Expr" or message.kind != 1 or strings(message.name) != ["="]:
        return
    left, right = message.lexpr, message.rexpr
    if not (_is_null(left) or _is_null(right)):
        return
    tested = copy(left if _is_null(right) else right)
    node.Clear()
    node.null_test.nulltesttype = 1
    node.null_test.arg.CopyFrom(tested)


def _is_null(node: Any) -> bool:
    value = inner(node)
    return kind(value) == "A_Const" and bool(value.isnull)
