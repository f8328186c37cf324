"""Random statements: no wrong answer, and hardly any that is refused.

`SHARDPOOL_ORACLE_STATEMENTS` says how many, `SHARDPOOL_ORACLE_SEED` which, `SHARDPOOL_ORACLE_ANSWERED` how many percent
of those that one server answers have to be answered. `python -m tests.oracle` runs more of them, with a summary.
"""

from __future__ import annotations

import itertools
import os
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from .compare import Different
from .fleet import Oracle
from .generator import Statements
from .run import Tally, ask

STATEMENTS = int(os.environ.get("SHARDPOOL_ORACLE_STATEMENTS", "1000"))
SEED = os.environ.get("SHARDPOOL_ORACLE_SEED", "1")
ANSWERED = float(os.environ.get("SHARDPOOL_ORACLE_ANSWERED", "99"))
SHOWN = 10
# So that several workers share the work.
PARTS = 10
each_part = pytest.mark.parametrize("seed", [f"{SEED}.{number}" for number in range(PARTS)])


def run(plain: psycopg.Connection[Any], other: Any, seed: str, count: int) -> tuple[Tally, float]:
    tally, begun = Tally(), time.perf_counter()
    for number, case in enumerate(itertools.islice(Statements(seed), count)):
        with suppress(Different):  # it is counted
            ask(tally, plain, other, case, number)
    return tally, time.perf_counter() - begun


@each_part
def test_random_statements(oracle: Oracle, plain: psycopg.Connection[Any], seed: str) -> None:
    tally, seconds = run(plain, oracle.router, seed, STATEMENTS // PARTS)
    print(tally.summary(seconds))
    first = "\n\n".join(tally.wrong[:SHOWN])
    again = f"python -m tests.oracle --seed {seed} --skip NUMBER --statements 1 --show"
    assert not tally.wrong, f"{len(tally.wrong)} wrong answers of {STATEMENTS // PARTS}; again by: {again}\n{first}"
    if 100 * tally.answered < ANSWERED:
        pytest.fail(f"less than {ANSWERED} % answered\n{tally.summary(seconds)}")


@each_part
def test_the_statements_have_one_answer(
    plain: psycopg.Connection[Any], shuffled: psycopg.Connection[Any], seed: str
) -> None:
    """What is asked here does not hang on where rows lie, and few statements fail on one server."""
    tally, seconds = run(plain, shuffled, f"{seed} once more", STATEMENTS // PARTS)
    assert not tally.wrong, "\n\n".join(tally.wrong[:SHOWN])
    assert tally.outcomes["error"] <= 0.02 * STATEMENTS // PARTS + 5, tally.summary(seconds)


def test_a_seed_gives_the_same_statements() -> None:
    ours, theirs = (list(itertools.islice(Statements("again"), 200)) for _ in range(2))
    assert ours == theirs
