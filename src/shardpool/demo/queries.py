"""The second half of the demo: what a service does with the fleet, by key, by range, by scatter and in a batch."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from psycopg import Connection

from .._sync.router import Router
from .data import NO_TAIL
from .report import Batch, Carrier, Expectation, Lookups, NoTail, Period, Plane
from .stage import DemoStage
from .tally import Tally

EXAMPLE = "N14228"
_FIRST, _LAST = dt.date(2013, 6, 15), dt.date(2013, 8, 14)
_LOOKUPS = 500
_CONCURRENCY = 2

_PLANE = """
    select concat_ws(' ', p.manufacturer, p.model), p.year, p.seats, count(*), sum(f.distance)
    from planes p join flights f using (tailnum)
    where p.tailnum = %s
    group by p.tailnum
"""
_FLIGHTS = "select count(*), count(dep_time) from flights where tailnum = %s"
_WEATHER = "select origin, count(*), sum(temp), count(temp) from weather where day between %s and %s group by origin"
_CARRIERS = "select carrier, count(*), sum(arr_delay), count(arr_delay) from flights group by carrier"
_NAMED = """
    select a.name, c.flights, c.delay
    from unnest(%s::text[], %s::bigint[], %s::float8[]) as c (carrier, flights, delay)
    join airlines a using (carrier)
    order by c.flights desc, a.name
"""
_SET_FLIGHTS = """
    update planes set flights = (select count(*) from flights f where f.tailnum = planes.tailnum)
    where tailnum = %s
    returning flights
"""


def plane(router: Router, tally: Tally, stage: DemoStage) -> tuple[Plane, Expectation]:
    """A plane joined with its flights: the key leads to one shard, which has both."""
    with stage.step("join by key") as step:
        route = router.for_key(EXAMPLE, keyspace="tails")
        name, year, seats, flights, miles = route.execute(_PLANE, (EXAMPLE,)).one()
        step.note = f"{EXAMPLE} and its flights, on {route.shard} alone"
    answer = Plane(EXAMPLE, route.bucket, route.shard, f"{name} of {year}, {seats} seats", flights, miles)
    return answer, Expectation(f"flights of {EXAMPLE}", tally.by("flights", "tailnum")[EXAMPLE], flights)


def no_tail(router: Router, tally: Tally) -> tuple[NoTail, Expectation]:
    """The flights under the stand-in key."""
    route = router.for_key(NO_TAIL, keyspace="tails")
    flights, departed = route.execute(_FLIGHTS, (NO_TAIL,)).one()
    answer = NoTail(NO_TAIL, route.bucket, route.shard, flights, departed)
    return answer, Expectation("flights without a tail number", tally.by("flights", "tailnum")[NO_TAIL], flights)


def lookups(router: Router, tally: Tally, stage: DemoStage) -> tuple[Lookups, Expectation]:
    """Single look-ups, one after another, of keys from all over the keyspace."""
    flights = tally.by("flights", "tailnum")
    keys = sorted(flights)
    sample = keys[:: max(1, len(keys) // _LOOKUPS)][:_LOOKUPS]
    with stage.step("look up keys", total=len(sample)) as step:
        started = perf_counter()
        for key in keys:
            router.for_key(key, keyspace="tails")
        route_us = (perf_counter() - started) / len(keys) * 1e6
        seconds, same = [], 0
        for key in sample:
            started = perf_counter()
            count, _ = router.for_key(key, keyspace="tails").execute(_FLIGHTS, (key,)).one()
            seconds.append(perf_counter() - started)
            same += count == flights[key]
            step.progress(1)
        step.rows = len(sample)
        step.note = f"{len(sample)} tail numbers, one by one"
    p99 = quantiles(seconds, n=100)[98] if len(seconds) > 1 else seconds[0]
    answer = Lookups(len(keys), route_us, len(sample), median(seconds) * 1e3, p99 * 1e3)
    return answer, Expectation("tail numbers looked up, with the file's flights", len(sample), same)


def period(router: Router, tally: Tally, stage: DemoStage) -> tuple[Period, Expectation]:
    """The weather of a summer: only the shards that hold a part of it are asked."""
    with stage.step("query a range") as step:
        # The upper bound of for_range is not included.
        routes = router.for_range(_FIRST, _LAST + dt.timedelta(days=1), keyspace="weather_days")
        shards = {route.shard for route in routes}
        answers = router.scatter(_WEATHER, (_FIRST, _LAST), shards=shards)
        step.note = f"{_FIRST} to {_LAST}, on {' '.join(answers)}"
    sums = _added((origin, numbers) for result in answers.values() for origin, *numbers in result)
    hours = sum(hours for hours, _, _ in sums.values())
    means = {origin: total / known for origin, (_, total, known) in sorted(sums.items())}
    answer = Period(_FIRST.isoformat(), _LAST.isoformat(), tuple(answers), hours, means)
    expected = sum(count for day, count in tally.by("weather", "day").items() if _FIRST <= day <= _LAST)
    return answer, Expectation("hours of weather in that range", expected, hours)


def carriers(router: Router, tally: Tally, stage: DemoStage) -> tuple[tuple[Carrier, ...], Expectation]:
    """Flights by carrier, counted on every shard and added here; any one shard has the names of all carriers.

    Means do not add up, so the shards give sums and counts.
    """
    with stage.step("scatter and add") as step:
        answers = router.scatter(_CARRIERS, timeout=30)
        sums = _added((carrier, numbers) for result in answers.values() for carrier, *numbers in result)
        delays = [total / known if known else None for _, total, known in sums.values()]
        counts = [count for count, _, _ in sums.values()]
        named = router.execute(_NAMED, (list(sums), counts, delays))
        step.note = f"flights by carrier; names from {named.shards[0]}"
    expected = tally.by("flights", "carrier")
    same = sum(expected[carrier] == count for carrier, (count, _, _) in sums.items())
    answer = tuple(Carrier(*row) for row in named)
    return answer, Expectation("carriers with the file's number of flights", len(expected), same)


def _added(parts: Iterable[tuple[str, list[Any]]]) -> dict[str, list[Any]]:
    """The numbers of equal keys added up; NULL, the sum of nothing, adds nothing."""
    sums: dict[str, list[Any]] = {}
    for key, numbers in parts:
        before = sums.get(key, [0] * len(numbers))
        sums[key] = [total + (number or 0) for total, number in zip(before, numbers, strict=True)]
    return sums


def batch(router: Router, tally: Tally, stage: DemoStage) -> tuple[Batch, Expectation]:
    """One transaction for each plane, on the shard of its key, several shards and planes at once."""
    tails: Counter[str] = tally.by("planes", "tailnum")
    planes = list(tails)
    with stage.step("batch", total=len(planes)) as step:
        started = perf_counter()
        counts = router.map(
            _set_flights, planes, key=str, keyspace="tails", concurrency=_CONCURRENCY, progress=step.progress
        )
        seconds = perf_counter() - started
        step.rows = len(planes)
        step.note = f"{len(planes):,} transactions, {_CONCURRENCY} at once a shard"
    expected = tally.by("flights", "tailnum")
    same = sum(count == expected[tail] for tail, count in zip(planes, counts, strict=True))
    answer = Batch(len(planes), _CONCURRENCY, len(planes) / seconds)
    return answer, Expectation("planes updated with the file's number of flights", len(planes), same)


def _set_flights(conn: Connection[Any], tailnum: str) -> int:
    row = conn.execute(_SET_FLIGHTS, (tailnum,)).fetchone()
    assert row is not None
    return int(row[0])
