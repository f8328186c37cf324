"""The golden cases in `cases/*.yaml`: where statements go and what is done with them, as the rules of SQL want it.

A case has `sql`, perhaps `params` and `pull: true` (which asks for that strategy), and what is expected of it:

- `strategy`, and `shards`: their names, `any` for none in particular, `all`, or how many
- of scattered plans, where given, `shard_sql`, `ships`, `final`, `merge`, `add` and `cut`, as `describe()` prints them;
  SQL is compared as the parser reads it
- `order_lost_by`: what the order of a sorted subquery ends at
- or `refused`, the error's first line, and `error`, its class where that is not UnsupportedQuery

An item with only `group` is a heading for `tools/limits.py`.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from shardpool.query.plans.bound import Bound, Incomplete, bind
from shardpool.query.plans.planner import completed, plan

from .catalog import catalog, topology

KEYS = frozenset(
    "sql params pull strategy shards shard_sql ships final merge add cut refused error group note order_lost_by".split()
)


class _Loader(yaml.SafeLoader):
    """YAML in which `!decimal "1.5"` is a Decimal and `!tuple [1]` a tuple."""


_Loader.add_constructor("!decimal", lambda loader, node: Decimal(loader.construct_scalar(node)))
_Loader.add_constructor("!tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


SUBJECTS = sorted(path.stem for path in (Path(__file__).parent / "cases").glob("*.yaml"))


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
    try:
        return bind(plan(case["sql"], topology(), catalog()), topology(), case.get("params", []))
    except Incomplete:
        strategy = "pull" if case.get("pull") else None
        made = completed(case["sql"], topology(), catalog(), strategy=strategy)
        return bind(made, topology(), case.get("params", []))
