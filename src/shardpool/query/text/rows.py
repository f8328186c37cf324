"""`INSERT … VALUES` taken apart into its rows, once, so that each shard is sent the text of its own ones only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import UnsupportedQuery
from .remembered import remembered
from .statement import inner, parse, values_places
from .template import Template
from .tree import copy, without_places


@dataclass(frozen=True, slots=True)
class Rows:
    """What comes before the rows of VALUES, the rows, and what comes after."""

    head: Template
    rows: tuple[Template, ...]
    tail: Template

    def of(self, numbers: Iterable[int]) -> tuple[str, list[int]]:
        """The INSERT of some of its rows (from 0), and the old numbers of its parameters in their order."""
        places: dict[int, int] = {}

        def place(number: int) -> str:
            return f"${places.setdefault(number, len(places) + 1)}"

        head = self.head.fill(place)
        rows = ", ".join([self.rows[number].fill(place) for number in numbers])
        return head + rows + self.tail.fill(place), list(places)


@remembered
def taken_apart(sql: str) -> Rows:
    """The rows of a statement of plain VALUES. Raises `UnsupportedQuery` when its text is not what it looks like."""
    text = sql.encode()
    places, params = values_places(text)
    if not places:
        raise _strange()
    pieces = [(0, places[0][0]), *places, (places[-1][1], len(text))]
    head, *rows, tail = [_template(text, start, end, params) for start, end in pieces]
    whole = Rows(head, tuple(rows), tail)
    # That each piece is one row is seen by reading them in another order.
    tree = copy(parse(sql)[0])
    lists = inner(tree.select_stmt).values_lists
    turned = [copy(row) for row in reversed(lists)]
    del lists[:]
    lists.extend(turned)
    read = parse("".join([str(head), ", ".join(map(str, reversed(rows))), str(tail)]))
    if len(read) != 1 or without_places(read[0]) != without_places(tree):
        raise _strange()
    return whole


def _template(text: bytes, start: int, end: int, params: Sequence[tuple[int, int]]) -> Template:
    """A piece of the text, with the numbers of its parameters."""
    parts: list[str | int] = []
    for first, last in params[bisect_left(params, (start, 0)) : bisect_left(params, (end, 0))]:
        parts += [text[start:first].decode(), int(text[first + 1 : last])]
        start = last
    return Template((*parts, text[start:end].decode()))


def _strange() -> UnsupportedQuery:
    return UnsupportedQuery(
        "the rows of VALUES cannot be told apart in the text of the statement",
        hint="Insert the rows of each partition key by themselves.",
    )
