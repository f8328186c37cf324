"""Where statements go and what is done with them, as the rules of SQL want it: the cases stand in `cases/*.yaml`.

A case has `sql`, perhaps `params` and `pull: true` (which asks for that strategy), and what is expected of it:

- `strategy`, and `shards`: their names, `any` for none in particular, `all`, or how many
- of scattered plans, where given, `shard_sql`, `ships`, `final`, `merge`, `add` and `cut`, as `describe()` prints them;
  SQL is compared as the parser reads it
- or `refused`, the error's first line, and `error`, its class where that is not UnsupportedQuery

`bug` says what is wrong of a case that fails; an item with only `group` is a heading for `tools/limits.py`.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from shardpool.errors import ShardpoolError
from shardpool.query.bound import Bound, bind
from shardpool.query.planner import plan
from shardpool.query.statement import parse, without_places

from .catalog import SHARDS, catalog, topology

KEYS = frozenset(
    "sql params pull strategy shards shard_sql ships final merge add cut refused error bug group note".split()
)


class _Loader(yaml.SafeLoader):
    """YAML in which `!decimal "1.5"` is a Decimal and `!tuple [1]` a tuple."""


_Loader.add_constructor("!decimal", lambda loader, node: Decimal(loader.construct_scalar(node)))
_Loader.add_constructor("!tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


def cases(subject: str) -> list[dict[str, Any]]:
    """The cases of one file, headings left out; each is told its heading."""
    text = (Path(__file__).parent / f"cases/{subject}.yaml").read_text(encoding="utf-8")
    found, group = [], ""
    for case in yaml.load(text, _Loader):
        unknown = case.keys() - KEYS
        assert not unknown, f"{subject}: unknown {unknown} in {case}"
        if "sql" in case:
            found.append({"group": group, **case})
        else:
            group = case["group"]
    return found


def bound(case: dict[str, Any]) -> Bound:
    """The case's statement, planned and bound."""
    made = plan(case["sql"], topology(), catalog(), strategy="pull" if case.get("pull") else None)
    return bind(made, topology(), case.get("params", []))


def _params() -> list[Any]:
    found = []
    for path in sorted((Path(__file__).parent / "cases").glob("*.yaml")):
        for number, case in enumerate(cases(path.stem), 1):
            marks = [pytest.mark.xfail(reason=case["bug"], strict=True)] if "bug" in case else []
            found.append(pytest.param(case, id=f"{path.stem}-{number}-{case['sql'][:50]}", marks=marks))
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


def _read(sql: str) -> bytes:
    return b"".join(map(without_places, parse(sql)))
