"""Whether the router gives what one server gives: names, types, rows as the text that came over the wire, and order."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from shardpool import Router, UnsupportedQuery
from shardpool.errors import ScatterError, UnknownTable

Params = Sequence[Any] | dict[str, Any] | None
Row = tuple[str | None, ...]

SHOWN = 12
# Floats whose sum hangs on the order of the terms; the rows have no large ones, so that nothing cancels out.
RELATIVE, ABSOLUTE = 1e-9, 1e-6
RELATIVE_REAL = 1e-4


@dataclass
class Answer:
    """What one side said."""

    names: list[str] = field(default_factory=list)
    types: list[tuple[str, int]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    error: BaseException | None = None
    sqlstate: str | None = None
    strategy: str | None = None


@dataclass(frozen=True)
class Outcome:
    """`same`; `refused` with the router's message; `error`: both sides failed with the same SQLSTATE; or `unclear`: see
    `UNCLEAR`."""

    kind: str
    message: str = ""
    strategy: str | None = None

    def __eq__(self, other: object) -> bool:
        return self.kind == other if isinstance(other, str) else super().__eq__(other)

    def __hash__(self) -> int:
        return hash(self.kind)


class Different(AssertionError):
    """The router's answer is not the answer of one server."""


# Raised or not as the server's plan happens to be: texts of columns with different collations fail where they are
# hashed or compared, and there need be no such rows.
UNCLEAR = frozenset({"42P22"})


def compare(
    plain: psycopg.Connection[Any],
    other: Router | psycopg.Connection[Any],
    sql: str,
    params: Params = None,
    *,
    ordered: Sequence[int] | None = None,
    inexact: Collection[int] = (),
    strategy: str | None = None,
    both: bool = True,
) -> Outcome:
    """Run a statement on `plain` and on `other`, a router or a second plain server, and compare.

    `ordered` are the positions of the output whose sequence is fixed by the statement; None is a statement whose rows
    may come in any order. `inexact` are positions whose last digits hang on the order of the rows. With `both` what
    another strategy answered is asked again with `strategy="pull"`. Raises `Different`.
    """
    expected = ask_plain(plain, sql, params)
    if expected.sqlstate in UNCLEAR:
        return Outcome("unclear", f"{expected.sqlstate} {expected.error}".splitlines()[0])
    given, outcome = _against(expected, other, sql, params, ordered, inexact, strategy)
    if both and strategy is None and outcome == "same" and given.strategy not in (None, "pull"):
        _against(expected, other, sql, params, ordered, inexact, "pull")
    return outcome


def _against(
    expected: Answer,
    other: Router | psycopg.Connection[Any],
    sql: str,
    params: Params,
    ordered: Sequence[int] | None,
    inexact: Collection[int],
    strategy: str | None,
) -> tuple[Answer, Outcome]:
    if isinstance(other, psycopg.Connection):
        given = ask_plain(other, sql, params)
    else:
        given = ask_router(other, sql, params, strategy)
    if isinstance(given.error, UnsupportedQuery):
        return given, Outcome("refused", str(given.error).splitlines()[0])
    problem = difference(expected, given, ordered, inexact)
    if problem:
        how = f"strategy={strategy or given.strategy}"
        raise Different(f"{problem}\n  {how}\n  sql: {sql}\n  params: {params!r}") from given.error
    kind = "error" if expected.error else "same"
    message = f"{expected.sqlstate} {expected.error}".splitlines()[0] if expected.error else ""
    return given, Outcome(kind, message, given.strategy)


# -- asking ---------------


def ask_plain(conn: psycopg.Connection[Any], sql: str, params: Params = None) -> Answer:
    try:
        cursor = conn.execute(sql, params)
    except psycopg.Error as error:
        return Answer(error=error, sqlstate=error.sqlstate)
    result = cursor.pgresult
    if result is None or result.status != ExecStatus.TUPLES_OK:
        return Answer()
    return Answer(
        names=[(result.fname(index) or b"").decode() for index in range(result.nfields)],
        types=[(type_name(conn, result.ftype(i), result.fmod(i)), result.fmod(i)) for i in range(result.nfields)],
        rows=_texts(result),
    )


def ask_router(router: Router, sql: str, params: Params = None, strategy: str | None = None) -> Answer:
    how = {} if strategy is None else {"strategy": strategy}
    try:
        result = router.execute(sql, params, **how)
    except Exception as error:
        return Answer(error=error, sqlstate=sqlstate_of(error))
    description = result.description or []
    plan = getattr(result, "plan", None)
    return Answer(
        names=list(result.columns),
        types=[
            (_router_type(router, result, column.type_code, _modifier(column)), _modifier(column))
            for column in description
        ],
        rows=raw_rows(result),
        strategy=getattr(plan, "strategy", None),
    )


def raw_rows(result: Any) -> list[Row]:
    """The rows of a router's result as PostgreSQL wrote them."""
    if isinstance(result, psycopg.Cursor):
        return _texts(result.pgresult)
    return [
        tuple(None if value is None else bytes(value).decode(errors="backslashreplace") for value in row)
        for row in result.raw()
    ]


def _texts(result: Any) -> list[Row]:
    columns = range(result.nfields)
    assert not any(result.fformat(column) for column in columns), "rows in binary format cannot be compared"
    rows = []
    for number in range(result.ntuples):
        values = (result.get_value(number, column) for column in columns)
        rows.append(
            tuple(None if value is None else bytes(value).decode(errors="backslashreplace") for value in values)
        )
    return rows


def _modifier(column: Any) -> int:
    return int(getattr(column, "_fmod", -1))


_names: dict[tuple[str, int, int], str] = {}
_FIRST_OWN_OID = 16384  # smaller ones are the same on every server of one version


def type_name(conn: psycopg.Connection[Any], oid: int, modifier: int) -> str:
    key = ("" if oid < _FIRST_OWN_OID else f"{conn.info.host}:{conn.info.port}/{conn.info.dbname}", oid, modifier)
    if key not in _names:
        row = conn.execute("select format_type(%s, %s)", (oid, modifier)).fetchone()
        _names[key] = row[0].replace('"', "") if row else "?"
    return _names[key]


def _router_type(router: Router, result: Any, oid: int, modifier: int) -> str:
    """By the server that answered. Where several did, one of them has to know the oid."""
    shards = tuple(result.shards) or router.shards
    for shard in shards[:1] if oid < _FIRST_OWN_OID else (*shards, *router.shards):
        key = ("" if oid < _FIRST_OWN_OID else f"{id(router)}/{shard}", oid, modifier)
        if key not in _names:
            _names[key] = router.shard(shard).execute("select format_type(%s, %s)", (oid, modifier)).one()[0]
            _names[key] = _names[key].replace('"', "")
        if _names[key] != "???":
            return _names[key]
    return "???"


def sqlstate_of(error: BaseException | None) -> str | None:
    """PostgreSQL's code of what went wrong, wherever it was wrapped."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ScatterError):
            error = next(iter(error.failures.values()), None)
            continue
        found = "42P01" if isinstance(error, UnknownTable) else getattr(error, "sqlstate", None)
        if found:
            return str(found)
        error = error.__cause__ or error.__context__
    return None


# -- comparing ---------------


def difference(
    expected: Answer, given: Answer, ordered: Sequence[int] | None = None, inexact: Collection[int] = ()
) -> str | None:
    """What is not the same, to be read by people; None when nothing is."""
    if expected.error is not None or given.error is not None:
        return _errors_differ(expected, given)
    if expected.names != given.names:
        return f"names of the columns: {given.names} where one server has {expected.names}"
    types = _types_differ(expected, given)
    if types:
        return types
    if len(expected.rows) != len(given.rows):
        return f"{len(given.rows)} rows where one server has {len(expected.rows)}\n{_rows_diff(expected, given)}"
    real = {i for i in inexact if expected.types[i][0] == "real"}
    if not _same_rows(expected.rows, given.rows, inexact, real):
        return f"other rows than those of one server\n{_rows_diff(expected, given)}"
    keys = [position for position in ordered or () if position not in inexact]
    for number, (left, right) in enumerate(zip(expected.rows, given.rows, strict=True)):
        if any(left[key] != right[key] for key in keys):
            return f"another order: row {number} is {right} where one server has {left} (keys {keys})"
    return None


def _errors_differ(expected: Answer, given: Answer) -> str | None:
    if expected.error is None:
        raised = f"{type(given.error).__name__}: {given.error}"
        return f"the router raised {raised}\n  one server gave {len(expected.rows)} rows"
    if given.error is None:
        return f"the router gave {len(given.rows)} rows where one server raised {expected.sqlstate}: {expected.error}"
    if expected.sqlstate != given.sqlstate:
        left, right = (
            f"{expected.sqlstate}: {expected.error}",
            f"{type(given.error).__name__} {given.sqlstate}: {given.error}",
        )
        return f"another error: {right}\n  where one server raised {left}"
    return None


def _types_differ(expected: Answer, given: Answer) -> str | None:
    for position, (left, right) in enumerate(zip(expected.types, given.types, strict=True)):
        plain_left, plain_right = _without_modifier(left[0]), _without_modifier(right[0])
        told = left[1] != -1 and right[1] != -1
        if plain_left != plain_right or (told and left != right):
            name = expected.names[position]
            return f"column {position} ({name}) is {right[0]} {right[1]} where one server has {left[0]} {left[1]}"
    return None


def _without_modifier(name: str) -> str:
    # format_type names char(n) "character(n)", and a bpchar without length "bpchar".
    return re.sub(r"\(.*?\)", "", name).replace("bpchar", "character")


def _same_rows(left: list[Row], right: list[Row], inexact: Collection[int], real: Collection[int]) -> bool:
    if not inexact:
        return sorted(left, key=_sortable) == sorted(right, key=_sortable)
    groups: dict[Row, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((left, right)):
        for row in rows:
            exact = tuple(value for position, value in enumerate(row) if position not in inexact)
            groups[exact][side].append(row)
    return all(_match(ours, theirs, inexact, real) for ours, theirs in groups.values())


def _match(ours: list[Row], theirs: list[Row], inexact: Collection[int], real: Collection[int]) -> bool:
    """Whether each row has a partner that is nearly the same."""
    left = list(theirs)
    for row in ours:
        partner = next(
            (i for i, other in enumerate(left) if all(_near(row[p], other[p], p in real) for p in inexact)), None
        )
        if partner is None:
            return False
        left.pop(partner)
    return not left


def _near(left: str | None, right: str | None, real: bool) -> bool:
    if left == right:
        return True
    if left is None or right is None:
        return False
    try:
        a, b = float(left), float(right)
    except ValueError:
        return False
    return math.isclose(a, b, rel_tol=RELATIVE_REAL if real else RELATIVE, abs_tol=1e-3 if real else ABSOLUTE)


def _sortable(row: Row) -> tuple[tuple[bool, str], ...]:
    return tuple((value is not None, value or "") for value in row)


def _rows_diff(expected: Answer, given: Answer) -> str:
    missing, extra = _surplus(expected.rows, given.rows), _surplus(given.rows, expected.rows)
    lines = [f"  columns: {', '.join(expected.names)}"]
    for mark, rows in (("missing", missing), ("extra  ", extra)):
        lines += [f"  {mark} {row}" for row in rows[:SHOWN]]
        if len(rows) > SHOWN:
            lines.append(f"  {mark} … {len(rows) - SHOWN} more")
    return "\n".join(lines)


def _surplus(left: list[Row], right: list[Row]) -> list[Row]:
    counts: dict[Row, int] = defaultdict(int)
    for row in right:
        counts[row] += 1
    surplus = []
    for row in left:
        counts[row] -= 1
        if counts[row] < 0:
            surplus.append(row)
    return sorted(surplus, key=_sortable)
