"""Hints of the library as the command line shows them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardpool
from shardpool.cli.wording import at_prompt, in_commands

SOURCES = Path(shardpool.__file__).parent
# Of programs alone: nobody who types commands meets them; and functions of SQL.
PROGRAMS = {"otel.py", "transaction.py", "route.py", "batch.py", "tasks.py"}
OF_SQL = {"to_json()"}
OF_PROGRAMS = ("router", "`with` block", "partial=True", "atomic=True", "psycopg", "transaction()", "binary=False")


def hints() -> Iterator[tuple[str, str]]:
    """(file, text) of every hint that is written out in the library, an f-string with dots for its values."""
    for file in sorted(SOURCES.rglob("*.py")):
        inside = file.relative_to(SOURCES).parts
        if inside[0] in ("_sync", "cli", "demo") or file.name in PROGRAMS:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                for text in _texts(node.value):
                    yield file.name, text


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    else:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from _texts(child)


def test_no_hint_tells_who_types_commands_of_arguments_and_methods() -> None:
    found = [*hints()]
    assert len(found) > 100
    for file, text in found:
        if any(words in text for words in OF_PROGRAMS):
            continue
        said = in_commands(text)
        named = set(re.findall(r"\b[a-z_]+\(\)|\b[a-z_]+=(?:…|\[)", said)) - OF_SQL
        assert not named, f"{file}: {said}"


@pytest.mark.parametrize(
    ("hint", "typed", "prompted"),
    [
        (
            "Pass key=…, or name the shard: shard(name).execute(), or ask all with scatter().",
            "Give --key KEY, or --shard NAME, or ask all with --all-shards.",
            r"Give \shard NAME, or \shard NAME, or ask all with \each.",
        ),
        (
            "Run it on every shard with scatter(), or on one with shard(name).execute().",
            "Run it on every shard with --all-shards, or on one with --shard NAME.",
            r"Run it on every shard with \each, or on one with \shard NAME.",
        ),
        ("See: shardpool migrate status", "See: shardpool migrate status", "See: shardpool migrate status"),
    ],
)
def test_hints_name_what_is_typed(hint: str, typed: str, prompted: str) -> None:
    assert in_commands(hint) == typed
    assert at_prompt(hint) == prompted
