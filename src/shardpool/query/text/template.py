"""SQL with places for literals: for COPY, which takes no parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .names import output_name
from .statement import deparse, expression, inner, kind, strings, walk
from .tree import parts

_MARK = "shardpool $%d parameter"
_STATEMENT = "statement_timestamp"
_NOW = ("now", "transaction_timestamp", _STATEMENT)
_TIME_NAMES = frozenset((*_NOW, "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"))
# SQLValueFunctionOp by number: CURRENT_DATE, CURRENT_TIME, CURRENT_TIMESTAMP, LOCALTIME, LOCALTIMESTAMP, and those
# with a precision.
_TIMES = {
    1: "date",
    **dict.fromkeys((2, 3), "timetz"),
    **dict.fromkeys((4, 5), "timestamptz"),
    **dict.fromkeys((6, 7), "time"),
    **dict.fromkeys((8, 9), "timestamp"),
}


@dataclass(frozen=True, slots=True)
class Template:
    """Texts and, between them, the numbers of parameters; 0 is the time of the transaction."""

    parts: tuple[str | int, ...]

    def fill(self, literal: Callable[[int], str]) -> str:
        """The SQL with `literal(n)` in the place of `$n`."""
        return "".join(part if isinstance(part, str) else literal(part) for part in self.parts)

    def numbered(self, time: int) -> str:
        """The SQL with its parameters, and with `$time` where the time of the transaction is."""
        return self.fill(lambda number: f"${number or time}")

    @property
    def params(self) -> frozenset[int]:
        """The numbers of the parameters that are used."""
        return frozenset(part for part in self.parts if isinstance(part, int))

    def for_psycopg(self) -> tuple[str, list[int]]:
        """The SQL with `%s`, and the numbers of the parameters that stand there."""
        text = "".join(part.replace("%", "%%") if isinstance(part, str) else "%s" for part in self.parts)
        return text, [part for part in self.parts if isinstance(part, int)]

    def with_params(self, values: Sequence[Any]) -> tuple[str, list[Any]]:
        """The SQL and its parameters for psycopg, of all `values`; it has no place for the time."""
        text, numbers = self.for_psycopg()
        return text, [values[number - 1] for number in numbers]

    def __str__(self) -> str:
        return self.fill(lambda number: f"${number}" if number else "now()")


def template(tree: Any) -> Template:
    """The template of a tree, which is changed by it: `$n`, and as number 0 the time of the transaction."""
    _keep_names(tree)
    _place_times(tree)
    return _marked(tree, [0])


def untimed(tree: Any) -> Template:
    """The template of a tree, which is changed by it, as it stands: only `$n`."""
    return _marked(tree, [])


def _marked(tree: Any, places: Sequence[int]) -> Template:
    numbers = sorted({found.number for found in walk(tree) if kind(found) == "ParamRef"})
    _mark(tree)
    parts: list[str | int] = [deparse(tree)]
    for number in (*places, *numbers):
        parts = [piece for part in parts for piece in _split(part, number)]
    return Template(tuple(parts))


def time_type(expression: Any) -> str | None:
    """The type of an expression that is the time of the transaction, the same all through it; None for any other."""
    if kind(expression) == "FuncCall":
        return "timestamptz" if _calls(expression, *_NOW) else None
    if kind(expression) == "SQLValueFunction":
        type_ = _TIMES.get(expression.op)
        return type_ if type_ is None or expression.typmod < 0 else f"{type_}({expression.typmod})"
    return None


def at_one_time(tree: Any) -> Any:
    """The tree with `now()` for `statement_timestamp()`, under the same names of columns.

    They are the same in a statement that is a transaction of its own. What brings rows together is a later one of its
    transaction (https://www.postgresql.org/docs/current/functions-datetime.html#FUNCTIONS-DATETIME-CURRENT).
    """
    calls = [part for part in walk(tree) if _calls(part, _STATEMENT)]
    if calls:
        _keep_names(tree)
    for call in calls:
        call.funcname[-1].string.sval = "now"
    return tree


def asks_for_time(tree: Any) -> bool:
    """Whether `at_one_time` would change a tree."""
    return any(_calls(part, _STATEMENT) for part in walk(tree))


def _keep_names(tree: Any) -> None:
    """Columns that are named after a time keep their names, whatever takes its place."""
    for piece in walk(tree):
        if kind(piece) == "ResTarget" and piece.HasField("val") and output_name(piece) in _TIME_NAMES:
            piece.name = output_name(piece)
        elif kind(piece) == "RangeFunction" and not piece.HasField("alias"):
            calls = [part for part in walk(piece) if kind(part) == "FuncCall"]
            if len(calls) == 1 and strings(calls[0].funcname)[-1] in _TIME_NAMES:
                piece.alias.aliasname = strings(calls[0].funcname)[-1]


def _calls(expression: Any, *functions: str) -> bool:
    """Whether it is the call of one of these functions of PostgreSQL, without arguments."""
    if kind(expression) != "FuncCall" or expression.args:
        return False
    names = strings(expression.funcname)
    return names[-1] in functions and names[:-1] in ([], ["pg_catalog"])


def _place_times(message: Any) -> None:
    """Put a place with the number 0, cast to its type, where the time of the transaction is."""
    for _, child in parts(message):
        type_ = time_type(inner(child)) if kind(child) == "Node" else None
        if type_ is None:
            _place_times(child)
            continue
        child.CopyFrom(expression(f"cast(cast(null as timestamptz) as {type_})"))
        place = child.type_cast.arg.type_cast.arg
        place.column_ref.fields.add().string.sval = _MARK % 0


def _mark(message: Any) -> None:
    """Put a column of a name that nobody uses where a parameter is: it is deparsed as one quoted word."""
    for _, child in parts(message):
        if kind(child) == "Node" and child.WhichOneof("node") == "param_ref":
            number = child.param_ref.number
            child.column_ref.fields.add().string.sval = _MARK % number
        else:
            _mark(child)


def _split(part: str | int, number: int) -> Sequence[str | int]:
    if isinstance(part, int):
        return [part]
    pieces: list[str | int] = []
    for piece in part.split('"' + _MARK % number + '"'):
        pieces += [piece, number]
    return pieces[:-1]
