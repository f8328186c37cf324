"""How many calls are made once more, and what counts as long."""

from __future__ import annotations

import random

import pytest

from shardpool._endpoint.budget import BURST, Budget
from shardpool._endpoint.quantile import RunningQuantile


def test_a_share_of_the_calls_may_be_repeated() -> None:
    budget = Budget(0.1)
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert 100 - 1 <= spent <= 100 + BURST


def test_what_is_not_spent_is_not_saved_up_without_end() -> None:
    budget = Budget(0.1)
    for _ in range(100_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == BURST


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_a_running_quantile_is_where_that_share_is_below(quantile: float) -> None:
    numbers = random.Random(1)
    running = RunningQuantile(quantile)
    assert running.value is None
    below = []
    for count in range(20_000):
        number = numbers.lognormvariate(-5, 1)
        if count > 2000 and running.value is not None:
            below.append(number < running.value)
        running.add(number)
    assert sum(below) / len(below) == pytest.approx(quantile, abs=0.02)


def test_it_follows_when_all_become_slower() -> None:
    running = RunningQuantile(0.95)
    for number in [0.001] * 1000 + [0.1] * 1000:
        running.add(number)
    assert running.value == pytest.approx(0.1, rel=0.2)
