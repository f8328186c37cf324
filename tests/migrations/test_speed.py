"""Eight shards at once, and a look at them that does not hang on the number of migrations."""

from __future__ import annotations

import time

import pytest

from tests.timing import in_time

from .conftest import ORDERS, Fleet8

pytestmark = pytest.mark.servers

FILES = 200


def test_two_hundred_migrations_on_eight_shards_are_told_soon(eight: Fleet8) -> None:
    eight.write("orders", ORDERS)
    for number in range(FILES - 1):
        eight.write(
            f"n{number}", f"-- migrate:up\ncomment on table orders is '{number}';\n-- migrate:down\nselect 1;\n"
        )
    eight.write_sum()
    eight("up", "--parallel", "8")
    for command in ("status", "up"):
        began = time.monotonic()
        eight(command)
        in_time(time.monotonic() - began, 1.0, command)


def test_eight_shards_work_at_the_same_time(eight: Fleet8) -> None:
    eight.write("slow", "-- migrate:up\nselect pg_sleep(1);\n-- migrate:down\nselect 1;\n")
    eight.write_sum()
    began = time.monotonic()
    eight("up", "--canary", "none", "--parallel", "8")
    assert time.monotonic() - began < 8, "one after another they sleep for eight seconds"
