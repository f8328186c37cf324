"""The plan that a pattern gives for a text is the one that is made of the text itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
import pytest

from shardpool.errors import ShardpoolError
from shardpool.query.plans.patterns import Pattern, fixed, pattern
from shardpool.query.plans.planner import plan
from shardpool.query.text.literals import Literals, literals

from .catalog import catalog, topology
from .golden import SUBJECTS, cases

# Texts that are made of each golden statement, and values by what they are: each other's, of keys, limits and names.
TEXTS = 12
INT4 = [0, 1, 2, 3, 5, 7, 10, 42, 99, 2**31 - 1]
INT8 = [2**31, 2**53 + 1, 10**17]
TEXT = [
    "",
    "1",
    "5",
    "a",
    "b",
    "eu",
    "x",
    "de",
    "abc",
    "A b",
    "2024-01-01",
    "true",
    "select",
    "orders",
    "%",
    "{1,2}",
    "nul",
]
KINDS: dict[str, list[Any]] = {"\1": INT4, "\2": INT8, "\3": TEXT}


def mutated(found: Literals, chance: Random, numbers: tuple[int, ...] | None = None) -> str:
    """A text of the same frame, with other values; only for those of these numbers, if given."""
    values, number = iter(enumerate(found.values)), 0

    def value(mark: re.Match[str]) -> str:
        nonlocal number
        number, old = next(values)
        new = old if numbers is not None and number not in numbers else chance.choice(KINDS[mark[0]])
        return f"'{new}'" if mark[0] == "\3" else str(new)

    return re.sub("[\1-\3]", value, found.frame)


def frames(chance: Random) -> Iterator[Literals]:
    """Those of the golden statements, with literals for their parameters."""
    for subject in SUBJECTS:
        for case in cases(subject):
            written = re.sub(r"\$\d+", lambda _: chance.choice(["5", "'a'", "'5'", "42"]), case["sql"])
            found = literals(written)
            if found is not None:
                yield found


def made_of(sql: str) -> Pattern | None:
    found = literals(sql)
    assert found is not None
    try:
        planned = plan(sql, topology(), catalog())
    except (ShardpoolError, psycopg.Error):
        return None
    return pattern(sql, found, planned, topology(), catalog())


@pytest.mark.parametrize("seed", range(3))
def test_a_text_is_planned_by_a_pattern_as_it_is_by_itself(seed: int) -> None:
    chance, patterns = Random(seed), 0
    for found in frames(chance):
        first = mutated(found, chance)
        made = made_of(first)
        if made is None:
            continue
        patterns += 1
        known = literals(first)
        assert known is not None
        for _ in range(TEXTS):
            sql = mutated(known, chance, made.numbers)
            again = literals(sql)
            assert again is not None
            assert again.frame == found.frame
            assert fixed(made.numbers, again.values) == fixed(made.numbers, known.values)
            assert made.filled(sql, again.values) == plan(sql, topology(), catalog()), (first, sql)
    assert patterns > 60
