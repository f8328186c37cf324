"""Durations counted by size, and the quantiles of the last seconds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardpool._endpoint.histogram import BOUNDS, LE, PERIOD, Histogram
from shardpool._endpoint.meter import Meter

DURATIONS = st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=200)


def filled(durations: list[float], now: float = 0.0) -> Histogram:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration, now)
    return histogram


def test_bounds_rise_by_at_most_a_factor_of_two_and_hold_those_that_are_shown() -> None:
    assert all(low < high <= 2 * low for low, high in pairwise(BOUNDS))
    assert (BOUNDS[0], BOUNDS[-1]) == (1e-5, 100.0)
    assert set(LE) <= set(BOUNDS)


@given(DURATIONS)
def test_every_duration_is_counted_at_its_bound_and_above(durations: list[float]) -> None:
    stats = filled(durations).stats(0.0)
    assert stats["count"] == len(durations)
    assert stats["sum"] == pytest.approx(sum(durations))
    assert stats["at_most"] == [sum(duration <= bound for duration in durations) for bound in LE]


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_within_the_bounds_around_the_exact_one(durations: list[float], share: float) -> None:
    found = filled(durations).quantile(share, 0.0)
    assert found is not None
    exact = sorted(durations)[max(0, -int(-share * len(durations) // 1) - 1)]
    assert exact / 2 - 1e-5 <= found <= 2 * exact + 1e-5


@given(DURATIONS)
def test_p50_is_never_above_p99(durations: list[float]) -> None:
    stats = filled(durations).stats(0.0)
    assert stats["p50"] <= stats["p99"] <= BOUNDS[-1]


def test_quantiles_forget_what_is_older_than_two_periods_and_counts_do_not() -> None:
    histogram = filled([1.0] * 10, now=0.0)
    histogram.add(0.001, PERIOD)
    assert histogram.quantile(0.99, PERIOD) == pytest.approx(1.0, rel=0.5)
    histogram.add(0.001, 2 * PERIOD + 0.1)
    assert histogram.quantile(0.99, 2 * PERIOD + 0.1) == pytest.approx(0.001, rel=0.5)
    assert histogram.quantile(0.5, 100 * PERIOD) is None
    assert histogram.stats(100 * PERIOD)["count"] == 12


def test_a_pause_leaves_nothing_old_in_the_window() -> None:
    histogram = filled([1.0] * 10, now=0.0)
    histogram.add(0.001, 3 * PERIOD)
    assert histogram.quantile(1.0, 3 * PERIOD) == pytest.approx(0.001, rel=0.5)


def test_an_empty_histogram_has_no_quantiles() -> None:
    stats = Histogram().stats(0.0)
    assert (stats["count"], stats["sum"], stats["p50"], stats["p99"]) == (0, 0.0, None, None)


@given(st.lists(st.tuples(st.floats(0, 0.01), st.floats(0, 200)), min_size=1, max_size=100))
def test_a_meter_counts_as_its_histograms_would(uses: list[tuple[float, float]]) -> None:
    meter, waits, used = Meter("s0", "primary"), Histogram(), Histogram()
    for number, (wait, use) in enumerate(uses):
        begun = number * 1000.0
        had = begun + wait
        meter.used((begun, had), had + use)
        waits.add(had - begun if had - begun > LE[0] else 0.0, had + use)
        used.add(had + use - had, had + use)
    assert (meter.wait.counts, meter.use.counts) == (waits.counts, used.counts)
    assert meter.wait.total == pytest.approx(waits.total)
    assert meter.use.total == pytest.approx(used.total)
    assert meter.use.stats(0.0) == used.stats(0.0)
