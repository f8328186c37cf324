"""The numbers of `top` that come from several looks."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from shardpool._sync.admin.samples import Sample
from shardpool.cli.top.samples import EndpointSample, lag, quantile, rate
from shardpool.cli.top.screen import fitting, table


def places(*written: tuple[float, int | None]) -> list[Sample]:
    return [Sample(at, wal=wal) for at, wal in written]


def test_a_replica_that_has_all_is_not_behind() -> None:
    assert lag(places((10.1, 500)), places((9.0, 400), (10.0, 500)), 10.5) == 0.0


def test_the_lag_counts_from_the_newest_moment_of_which_it_has_everything() -> None:
    assert lag(places((10.1, 450)), places((8.0, 300), (9.0, 400), (10.0, 500)), 10.5) == 1.5


def test_a_replica_that_never_had_everything_has_no_known_lag() -> None:
    assert lag(places((10.1, 100)), places((9.0, 400)), 10.5) is None
    assert lag([], places((9.0, 400)), 10.5) is None
    assert lag(places((10.1, 100)), [], 10.5) is None


def test_the_lag_grows_while_the_primary_tells_nothing() -> None:
    primary = [*places((9.0, 400)), Sample(10.0, error="down")]
    assert lag(places((10.1, 400)), primary, 12.0) == 3.0


def test_the_rate_is_that_between_the_last_two_looks() -> None:
    looks = [Sample(1.0, transactions=0), Sample(2.0, transactions=100), Sample(4.0, transactions=160)]
    assert rate(looks) == pytest.approx(30.0)
    assert rate(looks[:1]) is None
    assert rate([looks[2], Sample(5.0, transactions=1)]) == 0.0, "the statistics were reset"
    assert rate([*looks, Sample(5.0, error="down")]) == pytest.approx(30.0)


def test_a_quantile_is_one_of_the_values_that_were_measured() -> None:
    assert quantile([], 0.5) is None
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([1.0, 2.0], 0.5) == 1.0
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0


def test_a_narrow_terminal_leaves_out_what_is_less_needed() -> None:
    rows = [["s0", "primary", "ok", "primary", "2/100", "0", "0", "12.5", "", "0.31", "0.35", "127.0.0.1:5432/shop"]]
    assert fitting(rows, 200) == list(range(12))
    assert fitting(rows, 90) == list(range(11))
    assert fitting(rows, 80) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert {0, 2} <= set(fitting(rows, 20))


@pytest.mark.parametrize("width", range(50, 140))
def test_what_is_drawn_is_drawn_in_full(width: int) -> None:
    row = EndpointSample(
        "s0", "replica-1", "127.0.0.1:5432/shop", "ok", "replica", 2, 100, 0, 0, 12.5, 0.1, 0.00031, 0.00035
    )
    console = Console(width=width, file=StringIO())
    console.print(table([row], "fleet shop", width))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert not [line for line in lines if "…" in line or len(line) > width]
