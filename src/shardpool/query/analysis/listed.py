"""A long `INSERT … VALUES` of plain constants and parameters, read by one pass over its text.

A tree of such a statement has a node for each cell, which takes a hundred times as long to look at as the text. So it
is planned by a sample of its rows, one of each kind, and only the cells of the partition key are read by the parser.
What this does not surely understand (any other expression, a remark between two rows) is left to the parser altogether.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..text.rows import Rows, taken_apart
from ..text.statement import inner, parse
from ..text.template import Template
from .texts import NAMED_TIMES

# https://www.postgresql.org/docs/current/sql-syntax-lexical.html. Strings without escapes, so that what one holds is
# what is seen of it, and none that goes on behind white space, as 'a' and 'b' on two lines do.
_NAME = r'(?:[A-Za-z_][\w$]*+|"[^"]++")'
_STRING = r"(?:'(?:[^']|'')*+'|[eE]'(?:[^'\\]|'')*+'|[bB]'[01]*+'|[xX]'[0-9a-fA-F]*+'|\$\$[^$]*+\$\$)"
_NUMBER = r"[+-]?[0-9]++(?:\.[0-9]++)?+"
_TYPE = (
    r"[A-Za-z_]\w*+(?:\([0-9]++(?:,\s*+[0-9]++)?\))?"
    r"(?:\s++(?:precision|varying|with(?:out)?\s++time\s++zone))?(?:\([0-9]++\))?(?:\[\])?"
)
_CELL = rf"(?:(?:\$[0-9]++|{_STRING}|{_NUMBER}|null|true|false)(?:::{_TYPE})?|default)"
_FLAGS = re.ASCII | re.IGNORECASE
_HEAD = re.compile(
    rf"\s*+insert\s++into\s++{_NAME}(?:\.{_NAME})?+(?:\s++as\s++{_NAME})?+\s*+(?:\(\s*+{_NAME}(?:\s*+,\s*+{_NAME})*+\s*+\)"
    r"\s*+)?+(?:overriding\s++(?:system|user)\s++value\s++)?+values\s*+(?=\()",
    _FLAGS,
)
_ROW = re.compile(rf"\(\s*+({_CELL}(?:\s*+,\s*+{_CELL})*+)\s*+\)", _FLAGS)
_COMMA = re.compile(r"\s*+,\s*+", re.ASCII)
_CELLS = re.compile(rf"({_CELL})(?:\s*+,\s*+|\Z)", _FLAGS)
# What of a cell is not its value: DEFAULT, and the type of a cast.
_KIND = re.compile(r"\Adefault\Z|(?<=::)[^']++\Z", _FLAGS)
_KINDS_MAX = 64

Cells = Sequence[str]


@dataclass(frozen=True, slots=True)
class Listed:
    """The statement by its rows: the cells of each.

    `sample` is the statement with only the first row of each kind: of the same casts and DEFAULTs in the same places.
    """

    cells: Sequence[Cells]
    sample: str

    def column(self, number: int) -> list[Any]:
        """The trees of one cell of each row, by its number from 0; None where there is none."""
        if number >= len(self.cells[0]):
            return [None] * len(self.cells)
        values = "), (".join([row[number] for row in self.cells])
        return [row.list.items[0] for row in parse(f"VALUES ({values})")[0].values_lists]

    def with_defaults(self, texts: Mapping[int, str]) -> Listed:
        """With these texts, by the number of the column, for each DEFAULT there, and behind rows that end before it."""
        width = len(self.cells[0])
        behind = [text for number, text in texts.items() if number >= width]
        places = [(number, text) for number, text in texts.items() if number < width]
        rows = [[*row, *behind] for row in self.cells]
        for row in rows:
            for number, text in places:
                if row[number].lower() == "default":
                    row[number] = text
        return replace(self, cells=rows)

    def rows(self, sample: str) -> Rows:
        """All the rows, between what stands around those of the sample, which may have been written anew."""
        return replace(taken_apart(sample), rows=tuple(map(_template, self.cells)))

    @property
    def highest_param(self) -> int:
        """The highest number of a parameter in the rows; 0 without any."""
        matches = (_PARAM.match(cell) for row in self.cells for cell in row)
        return max((int(param[1]) for param in matches if param is not None), default=0)


def listed(sql: str) -> Listed | None:
    """The rows of the statement; None when it is of another kind, or has a cell that is no plain constant."""
    head = _HEAD.match(sql)
    if head is None:
        return None
    rows, end = _rows(sql, head.end())
    cells = [_CELLS.findall(row) for row in rows]
    if not rows or len(set(map(len, cells))) > 1 or NAMED_TIMES.search(sql, head.end(), end):
        return None
    sample = _sample(rows, cells)
    if len(sample) > _KINDS_MAX:
        return None
    made = Listed(cells, f"{head[0]}({'), ('.join(sample)}){sql[end:]}")
    return made if _is_one_of_rows(made.sample, len(sample)) else None


def _rows(sql: str, start: int) -> tuple[list[str], int]:
    """What stands in the parentheses of each row from there on, and where the last one ends."""
    rows = []
    while (row := _ROW.match(sql, start)) is not None:
        rows.append(row[1])
        comma = _COMMA.match(sql, row.end())
        if comma is None:
            return rows, row.end()
        start = comma.end()
    return [], start


def _sample(rows: Sequence[str], cells: Sequence[Cells]) -> list[str]:
    """The first row of each kind."""
    samples: dict[tuple[str, ...], str] = {}
    for row, own in zip(rows, cells, strict=True):
        special = "::" in row or "default" in row.lower()
        samples.setdefault(tuple(map(_kind, own)) if special else (), row)
    return list(samples.values())


def _kind(cell: str) -> str:
    kind = _KIND.search(cell)
    return kind[0] if kind is not None else ""


def _is_one_of_rows(sample: str, count: int) -> bool:
    """Whether the parser sees as many rows: a remark may have hidden that others follow."""
    trees = parse(sample)
    return len(trees) == 1 and len(inner(trees[0].select_stmt).values_lists) == count


def _template(cells: Cells) -> Template:
    text = f"({', '.join(cells)})"
    if "'" not in text and "$$" not in text:
        return _split(text)
    parts = [part for cell in cells for part in (*(_split(cell).parts if _HAS_PARAMS.match(cell) else (cell,)), ", ")]
    return Template(("(", *parts[:-1], ")"))


def _split(text: str) -> Template:
    """A text in which every $ begins a parameter."""
    parts = _PARAM.split(text)
    return Template(tuple(int(part) if number % 2 else part for number, part in enumerate(parts)))


_PARAM = re.compile(r"\$([0-9]++)")
# A parameter, or what has been put in for DEFAULT.
_HAS_PARAMS = re.compile(r"\$[0-9]|\(")
