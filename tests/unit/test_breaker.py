"""When calls are refused: what counts, what opens at once, and what never does."""

from __future__ import annotations

import psycopg
import pytest

from shardpool._endpoint.attempt import Unanswered
from shardpool._endpoint.breaker import THRESHOLD, Breaker, is_timeout
from shardpool.errors import ShardUnavailable

LOST = psycopg.OperationalError("server closed the connection unexpectedly")
WRONG_SERVER = ShardUnavailable("the server is not that shard", shard="s0")
SILENT = Unanswered("it did not answer in time", shard="s0")


def test_failures_in_a_row_are_too_many_at_the_third() -> None:
    breaker = Breaker()
    assert [breaker.counts(LOST) for _ in range(THRESHOLD)] == [False] * (THRESHOLD - 1) + [True]


@pytest.mark.parametrize(
    "error",
    [
        WRONG_SERVER,
        psycopg.errors.InvalidPassword("password authentication failed"),
        psycopg.OperationalError('FATAL:  password authentication failed for user "app"'),
        psycopg.OperationalError("FATAL:  the database system is starting up"),
        psycopg.errors.InvalidCatalogName("no such database"),
    ],
)
def test_what_the_next_call_would_meet_too_opens_at_the_first(error: Exception) -> None:
    assert Breaker().counts(error)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.TooManyConnections("sorry"),
        psycopg.OperationalError("FATAL:  sorry, too many clients already"),
        psycopg.OperationalError("FATAL:  remaining connection slots are reserved for roles with SUPERUSER"),
    ],
)
def test_a_server_that_is_full_is_well(error: Exception) -> None:
    breaker = Breaker()
    assert not any(breaker.counts(error) for _ in range(10))


def test_a_server_that_fell_silent_counts_and_is_not_judged_at_once() -> None:
    breaker = Breaker()
    assert not breaker.counts(SILENT)
    assert is_timeout(SILENT) and is_timeout(psycopg.errors.ConnectionTimeout("late"))
    assert not is_timeout(LOST)


def test_closed_it_counts_anew() -> None:
    breaker = Breaker()
    for _ in range(THRESHOLD):
        breaker.counts(LOST)
    breaker.open(LOST, 1.0)
    assert breaker.is_open
    breaker.close()
    assert not breaker.is_open
    assert not breaker.counts(LOST)
