"""What a statement answered, as the commands print it: for people, as JSON or as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from .output import print_csv, print_expanded, print_json, print_table

if TYPE_CHECKING:
    from .. import Router
    from ..query.plans.bound import Bound
    from ..result import Result

# The types that psql too writes to the right: integers, floating point, numeric, oid, money.
_NUMBERS = frozenset((20, 21, 23, 26, 700, 701, 790, 1700))


@dataclass
class Printer:
    """Prints answers in the form that the caller asked for."""

    as_json: bool = False
    as_csv: bool = False
    expanded: bool = False

    def __post_init__(self) -> None:
        if self.as_json and self.as_csv:
            raise click.UsageError("give one of --json and --csv")

    @property
    def is_for_machines(self) -> bool:
        """Whether nothing but answers belongs on standard output."""
        return self.as_json or self.as_csv

    def result(self, result: Result) -> None:
        """The answer of one statement."""
        if self.as_json:
            strategy = {"strategy": result.plan.strategy} if result.plan is not None else {}
            print_json({"shards": list(result.shards), **strategy, **_as_dict(result)})
        elif result.description is None:
            click.echo(result.statusmessage or "")
        else:
            self.rows(result.columns, _texts(result), count=True, numeric=_numeric(result))

    def results(self, results: Mapping[str, Result]) -> None:
        """The answers of the same statement by shard; a first column tells the rows apart."""
        if self.as_json:
            print_json({"results": {shard: _as_dict(result) for shard, result in results.items()}})
            return
        first = next(iter(results.values()))
        if first.description is None:
            print_table(["shard", "status"], [(shard, result.statusmessage) for shard, result in results.items()])
            return
        rows = [(shard, *row) for shard, result in results.items() for row in _texts(result)]
        self.rows(["shard", *first.columns], rows, count=True, numeric=[False, *_numeric(first)])

    def rows(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        count: bool = False,
        numeric: Sequence[bool] | None = None,
    ) -> None:
        """Any table."""
        if self.as_json:
            print_json({"columns": list(columns), "rows": [list(row) for row in rows]})
        elif self.as_csv:
            print_csv(columns, rows)
        elif self.expanded:
            print_expanded(columns, rows)
        else:
            print_table(columns, rows, count=count, numeric=numeric)


def execute(router: Router, sql: str, params: Sequence[str] | None, plan: bool, **options: Any) -> Result:
    """`router.execute`, with the plan on standard error before it when `plan` asks for it."""
    explained = router.explain(sql, params, timeout=options.get("timeout")) if plan else None
    if explained is not None:
        print_plan(explained)
    result = router.execute(sql, params, **options)
    # What the shards answered may have shown that another way had to be taken.
    if explained is not None and result.plan is not None and result.plan.strategy != explained.strategy:
        click.echo("it was run in another way:", err=True)
        print_plan(result.plan)
    return result


def print_plan(plan: Bound) -> None:
    """A plan on standard error, apart from the rows."""
    click.echo(plan.describe(), err=True)


def _texts(result: Result) -> list[list[str | None]]:
    """The rows as PostgreSQL writes their values: a Python list, dictionary or interval would read otherwise."""
    encoding = result._transformer.encoding
    return [
        [None if value is None else bytes(value).decode(encoding, "replace") for value in row] for row in result.raw()
    ]


def _numeric(result: Result) -> list[bool]:
    return [column.type_code in _NUMBERS for column in result.description or ()]


def _as_dict(result: Result) -> dict[str, Any]:
    from .exact import json_rows

    return {
        "status": result.statusmessage,
        "rowcount": result.rowcount,
        "columns": list(result.columns),
        "rows": json_rows(result),
    }
