"""Every statement of `cases/*.yaml` goes where, and is done as, it says there: see `golden`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import psycopg
import pytest

from shardpool.errors import ShardpoolError
from shardpool.query.plans.bound import Bound
from shardpool.query.text.statement import parse
from shardpool.query.text.tree import without_places

from .catalog import SHARDS
from .golden import SUBJECTS, bound, cases


def _params() -> list[Any]:
    found = []
    for subject in SUBJECTS:
        for number, case in enumerate(cases(subject), 1):
            found.append(pytest.param(case, id=f"{subject}-{number}-{case['sql'][:50]}"))
    return found


@pytest.mark.parametrize("case", _params())
def test_a_case(case: dict[str, Any]) -> None:
    if "refused" in case:
        with pytest.raises((ShardpoolError, psycopg.Error)) as raised:
            bound(case)
        assert type(raised.value).__name__ == case.get("error", "UnsupportedQuery")
        assert str(raised.value).splitlines()[0] == case["refused"]
        return
    found = bound(case)
    described = found.describe()
    assert found.strategy == case["strategy"], described
    _check_shards(found, case.get("shards", "all" if found.strategy != "one" else None), described)
    assert found.as_dict().get("order_lost_by") == case.get("order_lost_by"), described
    for name, expected in _steps(case).items():
        assert _told(found, name) == expected, described


def _check_shards(found: Bound, expected: Any, described: str) -> None:
    if isinstance(expected, int):
        assert len(found.shards) == expected, described
    else:
        names = {"all": SHARDS, "any": ()}.get(expected, expected) if isinstance(expected, str) else expected
        assert found.shards == tuple(names), described


def _steps(case: dict[str, Any]) -> dict[str, Any]:
    """What is expected of the steps, SQL as it is read."""
    found = {name: case[name] for name in ("merge", "add", "cut") if name in case}
    found |= {name: _read(case[name]) for name in ("shard_sql", "final") if name in case}
    return found | ({"ships": [_read(sql) for sql in case["ships"]]} if "ships" in case else {})


def _told(found: Bound, name: str) -> Any:
    """The same of the plan, by what it prints."""
    starts = {"shard_sql": "SQL of each shard: ", "final": "SQL of the one shard: ", "ships": "SQL of each shard, for "}
    start = starts.get(name, f"{name}{' by' if name == 'merge' else ''}: ")
    lines = [line.removeprefix(start) for line in found.describe().splitlines() if line.startswith(start)]
    if name == "ships":
        return [_read(line.split(": ", 1)[1]) for line in lines]
    if name == "merge":
        return lines
    assert len(lines) == 1, found.describe()
    return lines[0] if name in ("add", "cut") else _read(lines[0])


def _read(sql: str) -> list[Hashable]:
    return list(map(without_places, parse(sql)))
