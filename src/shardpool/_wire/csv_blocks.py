"""Records of a CSV file in blocks, as COPY … (FORMAT csv) reads them and is to get them. Pure.

PostgreSQL's rules (https://www.postgresql.org/docs/current/sql-copy.html, "CSV Format"; CopyReadAttributesCSV in its
source): a quote opens and closes what is quoted, wherever it stands in a field; two of them within are one; a field is
NULL where it is the null text and has no quote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

Row = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class CsvForm:
    """What separates fields, and the text that is NULL where it is not quoted."""

    delimiter: str = ","
    null: str = ""

    @property
    def sent(self) -> CsvForm:
        """This form, or as much of it as COPY takes: a delimiter of one byte, and a null text that needs no quotes."""
        delimiter = self.delimiter if self.delimiter == "\t" or " " <= self.delimiter <= "~" else ","
        taken = self.null.isprintable() and not {delimiter, '"'}.intersection(self.null) and self.null != "\\."
        return CsvForm(delimiter, self.null if taken else "")

    def fields(self, text: str) -> list[str]:
        """The fields of a record as they stand there, with their quotes."""
        delimiter = self.delimiter
        return _fields(delimiter).findall(text + delimiter) if '"' in text else text.split(delimiter)

    def value(self, field: str) -> str | None:
        """What a field is."""
        if '"' in field:
            return unquoted(field)
        return None if field == self.null else field

    def values(self, fields: list[str]) -> Sequence[str | None]:
        """What many fields are: those without quotes, or all in quotes that have none within, by loops of C."""
        together = "\n".join(fields)
        if '"' not in together:
            return [None if field == self.null else field for field in fields] if self.null in fields else fields
        within = [field[1:-1] for field in fields]
        if together == '"' + '"\n"'.join(within) + '"' and together.count('"') == 2 * len(fields):
            return within
        return list(map(self.value, fields))

    def written(self, value: str | None) -> str:
        """A field: what is not NULL in quotes, which is never NULL."""
        return self.null if value is None else quoted(value)


@cache
def _fields(delimiter: str) -> re.Pattern[str]:
    """The fields of a record whose quotes are closed; the last one is followed by a delimiter, too."""
    after = re.escape(delimiter)
    return re.compile(rf'((?:[^"{after}]++|"[^"]*+")*+){after}')


def unquoted(field: str) -> str:
    """A field without its quotes."""
    first, *parts = field.split('"')
    # By turns within quotes and out of them; nothing between two that are within stands for a quote.
    for number in range(1, len(parts) - 1, 2):
        parts[number] = parts[number] or '"'
    return first + "".join(parts)


def quoted(value: str) -> str:
    """A value as a field in quotes."""
    return '"' + value.replace('"', '""') + '"'


class CsvBlock:
    """Some records of the same number of fields: as texts without their `end`, with the line on which each begins.

    `fields_by_number` are the fields of those in which not every delimiter separates two; `is_folded` when some have
    several lines.
    """

    __slots__ = ("_fields", "_form", "end", "is_folded", "lines", "texts")

    def __init__(
        self,
        form: CsvForm,
        end: str,
        texts: list[str],
        lines: Sequence[int],
        fields_by_number: Mapping[int, list[str]],
        *,
        is_folded: bool,
    ) -> None:
        self._form = form
        self._fields = fields_by_number
        self.end = end
        self.is_folded = is_folded
        self.texts = texts
        self.lines = lines

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, part: slice) -> CsvBlock:
        return self.picked(range(*part.indices(len(self))))

    def picked(self, numbers: Sequence[int]) -> CsvBlock:
        """The records of these numbers, from 0."""
        fields = {at: self._fields[number] for at, number in enumerate(numbers) if number in self._fields}
        texts = [self.texts[number] for number in numbers]
        lines = [self.lines[number] for number in numbers]
        return CsvBlock(self._form, self.end, texts, lines, fields, is_folded=self.is_folded)

    def column(self, at: int) -> Sequence[str | None]:
        """The values of one column."""
        delimiter = self._form.delimiter
        try:
            if at:
                found = [text.split(delimiter, at + 1)[at] for text in self.texts]
            else:
                found = [text.partition(delimiter)[0] for text in self.texts]
        except IndexError:
            raise ValueError(f"fewer than {at + 1} fields") from None
        for number, fields in self._fields.items():
            found[number] = fields[at]
        return self._form.values(found)

    def keys(self, positions: Sequence[int]) -> Sequence[Any]:
        """The values of the columns of a key: as they are of one, as tuples of several."""
        columns = [self.column(at) for at in positions]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def rows(self) -> Iterator[Row]:
        """The values of each record."""
        for number, text in enumerate(self.texts):
            fields = self._fields[number] if number in self._fields else self._form.fields(text)
            yield tuple(map(self._form.value, fields))


class CsvRecords:
    """The records of a file as the rows of `copy_into`, which takes them in blocks and passes on what it need not read.

    They can be read once, by blocks or row by row; `again` gives the same blocks once more, where that can be.
    """

    def __init__(
        self, form: CsvForm, blocks: Iterable[CsvBlock], again: Callable[[], Iterable[CsvBlock]] | None = None
    ) -> None:
        self.form = form
        self.blocks = blocks
        self.again = again

    def __iter__(self) -> Iterator[Row]:
        for block in self.blocks:
            yield from block.rows()
