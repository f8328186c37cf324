"""Eight shards are not much slower than one, and a look at them takes no second; both with the start of Python."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.timing import in_time

from .conftest import ORDERS, Fleet8

pytestmark = pytest.mark.servers

FILES = 200


def _best(call: Callable[[], object], times: int = 5) -> float:
    """The seconds that it takes at best, as on a machine that nobody else uses."""
    taken = []
    for _ in range(times):
        crowd = _crowd()
        began = time.monotonic()
        call()
        taken.append((time.monotonic() - began) / min(crowd, _crowd()))
    return min(taken)


def _crowd(work: float = 0.05) -> float:
    """How many times as long as on an idle machine something takes now: seconds for each second of the processor."""
    began, until = time.monotonic(), time.process_time() + work
    while time.process_time() < until:
        pass
    return max(1.0, (time.monotonic() - began) / work)


def test_two_hundred_migrations_on_eight_shards_are_told_within_a_second(eight: Fleet8) -> None:
    eight.write("orders", ORDERS)
    for number in range(FILES - 1):
        eight.write(
            f"n{number}", f"-- migrate:up\ncomment on table orders is '{number}';\n-- migrate:down\nselect 1;\n"
        )
    eight.write_sum()
    began = time.monotonic()
    eight("up", "--parallel", "8")
    first = time.monotonic() - began
    status = _best(lambda: eight("status"))
    nothing = _best(lambda: eight("up"))
    print(f"\nup {first:.2f} s, status {status:.2f} s, up with nothing to do {nothing:.2f} s")
    in_time(status, 1.0, "status")
    in_time(nothing, 1.0, "up with nothing to do")


def test_eight_shards_at_once_take_little_more_than_one(eight: Fleet8) -> None:
    eight.write("orders", ORDERS)
    eight("up")
    adds = "".join(f"alter table orders add column c{n} int;\n" for n in range(20))
    drops = "".join(f"alter table orders drop column c{n};\n" for n in range(20))
    eight.write("wide", f"-- migrate:up\n{adds}-- migrate:down\n{drops}")
    one = _best(lambda: (eight("up", "--shard", "s3"), eight("down", "--shard", "s3", "--yes")))
    all_of_them = _best(
        lambda: (
            eight("up", "--canary", "none", "--parallel", "8"),
            eight("down", "--canary", "none", "--parallel", "8", "--yes"),
        )
    )
    print(f"\none shard {one:.2f} s, eight {all_of_them:.2f} s: {all_of_them / one:.2f} times")
    in_time(all_of_them, 2.5 * one, "the same on eight shards")
