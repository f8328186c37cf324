"""An open CSV file as blocks of records, told apart as PostgreSQL's COPY tells them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TextIO

from .._wire.csv_blocks import CsvBlock, CsvForm, unquoted
from ..errors import LoadError

# Characters that are read at once; of a longer record as many as there are of it already.
_BLOCK = 2**16
# What a server takes as one row: more without the end of a quote is no record.
_LONGEST = 2**30
# The last character that was read may be half of an end.
_END = re.compile(r"\r\n|\n|\r(?!\Z)")
_QUOTED = re.compile('"[^"]*"')
# Alone on its line it ends the COPY, before PostgreSQL 18.
_MARKER, _NO_MARKER = "\\.", '"\\."'


class CsvReader:
    """The records of a file that is read once; `line` (1-based) is the one on which the next record begins.

    What ends the first record ends all of them, as for PostgreSQL, which refuses any other end that is not quoted.
    `form` is that of the file, its `sent` that of the blocks. What the file itself raises is passed on.
    """

    def __init__(self, file: TextIO, name: str, form: CsvForm) -> None:
        self.line = 1
        self._file = file
        self._name = name
        self._form = form
        self._sent = form.sent
        self._end = ""
        # What has been read, and belongs to no record that has been given.
        self._left = ""

    def header(self) -> list[str]:
        """The fields of the first record; none when the file is empty."""
        self._find_end()
        texts = self._whole() or self._last()
        if not texts:
            return []
        self._left = self._end.join([*texts[1:], self._left])
        self.line += 1 + _ends_in(texts[0])
        return [unquoted(field) for field in self._form.fields(texts[0])] if texts[0] else []

    def blocks(self, width: int, chosen: Sequence[int]) -> Iterator[CsvBlock]:
        """The chosen fields of the records that follow, in order.

        Empty lines are none, unless a record has one field only. Raises `LoadError` for a record that does not have
        `width` fields, when all before it have been given.
        """
        if not self._end:
            self._find_end()
        yield from self._blocks(self._whole(), width, chosen)
        while self._read():
            yield from self._blocks(self._whole(), width, chosen)
        yield from self._blocks(self._last(), width, chosen)

    def _find_end(self) -> None:
        quotes = at = 0
        while self._read():
            for found in _END.finditer(self._left, at):
                quotes += self._left.count('"', at, found.start())
                at = found.end()
                if quotes % 2 == 0:
                    self._end = found[0]
                    return
        self._end = "\r" if self._left.endswith("\r") else "\n"

    def _read(self) -> bool:
        if len(self._left) > _LONGEST:
            raise self._open()
        more = self._file.read(max(_BLOCK, len(self._left)))
        self._left += more
        return bool(more)

    def _whole(self) -> list[str]:
        """The records of which all has been read."""
        text = self._left
        texts = text.split(self._end)
        self._left = texts.pop()
        return self._closed(texts) if '"' in text else texts

    def _last(self) -> list[str]:
        """What the file ends with: its last record need not have an end."""
        texts = self._left.split(self._end)
        self._left = ""
        found = self._closed(texts if texts[-1] else texts[:-1])
        if self._left:
            self.line += sum([1 + _ends_in(text) for text in found])
            raise self._open()
        return found

    def _closed(self, lines: list[str]) -> list[str]:
        """The records that these lines are: where a quote is open at the end of one, it goes on in the next.

        One that is open in the end is left for later.
        """
        changing = [number for number, line in enumerate(lines) if line.count('"') & 1]
        if not changing:
            return lines
        records: list[str] = []
        after = 0
        for first, last in zip(changing[::2], changing[1::2], strict=False):
            records += lines[after:first]
            records.append(self._end.join(lines[first : last + 1]))
            after = last + 1
        if len(changing) % 2:
            records += lines[after : changing[-1]]
            self._left = self._end.join([*lines[changing[-1] :], self._left])
            return records
        return records + lines[after:]

    def _blocks(self, texts: list[str], width: int, chosen: Sequence[int]) -> Iterator[CsvBlock]:
        together = "".join(texts)
        within = _ends_in(together)
        lines = self._lines(texts, within)
        if width > 1 and "" in texts:
            lines = [line for line, text in zip(lines, texts, strict=True) if text]
            texts = [text for text in texts if text]
        fields_by_number: dict[int, list[str]] = {}
        wrong = None
        # As many as there have to be: a record with one too many that is quoted hides one with one too few only from
        # here, for the server refuses it.
        if together.count(self._form.delimiter) != (width - 1) * len(texts):
            fields_by_number, wrong = self._uneven(texts, width)
        good = len(texts) if wrong is None else wrong[0]
        if good:
            part = texts[:good], lines[:good], fields_by_number
            yield self._block(*part, width, chosen, is_folded=within > 0)
        if wrong is not None:
            number, found = wrong
            line = lines[number]
            raise LoadError(f"{self._name}:{line}: {found} fields where the header has {width}", line=line)

    def _lines(self, texts: list[str], within: int) -> Sequence[int]:
        """The lines on which these records begin, which have so many ends within; the next one begins after them."""
        begun = self.line
        self.line += len(texts) + within
        if not within:
            return range(begun, self.line)
        return list(accumulate([1 + _ends_in(text) for text in texts], initial=begun))[:-1]

    def _uneven(self, texts: list[str], width: int) -> tuple[dict[int, list[str]], tuple[int, int] | None]:
        """By number the fields of records with other delimiters than those between; the first of another width."""
        fields_by_number: dict[int, list[str]] = {}
        for number, text in enumerate(texts):
            if text.count(self._form.delimiter) != width - 1:
                fields = self._form.fields(text)
                if len(fields) != width:
                    return fields_by_number, (number, len(fields))
                fields_by_number[number] = fields
        return fields_by_number, None

    def _block(
        self,
        texts: list[str],
        lines: Sequence[int],
        fields_by_number: dict[int, list[str]],
        width: int,
        chosen: Sequence[int],
        *,
        is_folded: bool,
    ) -> CsvBlock:
        """Records as they stand in the file where COPY can read them so, else written anew."""
        form, sent = self._form, self._sent
        if form != sent or list(chosen) != list(range(width)):
            rows = [fields_by_number.get(number) or form.fields(text) for number, text in enumerate(texts)]
            rows = [[row[column] for column in chosen] for row in rows]
            if form != sent:
                self._check_ends(texts, lines)
                rows = [[sent.written(form.value(field)) for field in row] for row in rows]
            texts = [sent.delimiter.join(row) for row in rows]
            fields_by_number = dict(enumerate(rows))
        if len(chosen) == 1 and _MARKER in texts:
            texts = [_NO_MARKER if text == _MARKER else text for text in texts]
        return CsvBlock(sent, self._end, texts, lines, fields_by_number, is_folded=is_folded)

    def _check_ends(self, texts: list[str], lines: Sequence[int]) -> None:
        """Refuse what COPY refuses, and would not see in what is written anew."""
        for line, text in zip(lines, texts, strict=True):
            if _ends_in(text) and _ends_in(_QUOTED.sub("", text)):
                message = f"{self._name}:{line}: an end of a line that is not quoted, and not that of the first line"
                raise LoadError(message, line=line)

    def _open(self) -> LoadError:
        return LoadError(f"{self._name}:{self.line}: a quote is opened and not closed", line=self.line)


def _ends_in(text: str) -> int:
    """The ends of lines in a text."""
    if "\r" in text:
        return text.count("\n") + text.count("\r") - text.count("\r\n")
    return text.count("\n")
