"""A CSV file on disk, compressed or not, or on standard input, as blocks of records."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from .._wire.csv_blocks import CsvBlock, CsvForm
from ..errors import LoadError, nearest
from .csv_reader import CsvReader

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
# What a compressed file that was cut off or changed fails with.
_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile)
UNREADABLE = (UnicodeError, *_BROKEN)


class CsvFile:
    """The records of a CSV file, read as PostgreSQL's COPY reads them: NULL is the null text where it is not quoted.

    `source` is a path (plain, .gz, or a .zip with one member, told by its first bytes) or an open binary file, which
    can be read once only. The first row names the columns, unless `columns` are given with `header=False`.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        null: str = "",
        columns: Sequence[str] | None = None,
        header: bool = True,
        delimiter: str = ",",
        encoding: str = "utf-8-sig",
    ) -> None:
        self.name = os.fspath(source) if isinstance(source, str | os.PathLike) else "standard input"
        self._source = source
        self.form = CsvForm(delimiter, null)
        self._encoding = encoding
        self._header = header
        self._raw: BinaryIO | None = None
        self._given = list(columns) if columns is not None else None
        # Where `columns` has read the header already, `blocks` goes on from there: standard input is there once only.
        self._begun: tuple[TextIO, CsvReader, list[str]] | None = None
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise LoadError(
                f"{encoding!r} is not an encoding", hint="For example utf-8, latin-1, cp1252 or utf-16."
            ) from None
        if not header and columns is None:
            raise LoadError(f"{self.name} has no header", hint="Name its columns.")

    @property
    def can_be_read_again(self) -> bool:
        return isinstance(self._source, str | os.PathLike)

    def is_at(self, path: Path) -> bool:
        """Whether the path leads to this very file."""
        return self.can_be_read_again and path.exists() and path.samefile(self.name)

    @property
    def size(self) -> int | None:
        """Bytes of the file as it lies there, compressed or not; None where it cannot be told."""
        return Path(self.name).stat().st_size if self.can_be_read_again else None

    @property
    def position(self) -> int:
        """Bytes of it that have been read."""
        if self._raw is None or not self.can_be_read_again:
            return 0
        return (self.size or 0) if self._raw.closed else self._raw.tell()

    def columns(self) -> list[str]:
        """The names of the columns; reads the header, when there is one."""
        if not self._header:
            return list(self._given or [])
        if self._begun is None:
            self._begun = self._begin()
        return self._chosen(self._begun[2])

    def _begin(self) -> tuple[TextIO, CsvReader, list[str]]:
        """The open file, the reader of its records, and the names of all its columns."""
        try:
            file = self._open()
        except UNREADABLE as error:
            raise self._unreadable(error, 1) from error
        reader = CsvReader(file, self.name, self.form)
        try:
            names = reader.header() if self._header else list(self._given or [])
        except UNREADABLE as error:
            raise self._unreadable(error, 1) from error
        if not names:
            file.close()
            raise LoadError(f"{self.name} is empty: its first line has to name the columns")
        return file, reader, names

    def _chosen(self, names: list[str]) -> list[str]:
        for column in self._given or ():
            if column not in names:
                raise LoadError(f'{self.name} has no column "{column}"', hint=nearest(column, names))
        return self._given or names

    def blocks(self) -> Iterator[CsvBlock]:
        """The records in order; raises `LoadError` with the line of one that is not as the header."""
        begun, self._begun = self._begun or self._begin(), None
        file, reader, names = begun
        assert self._raw is not None
        # Closing what decompresses a file leaves the file itself open.
        with self._raw, file:
            chosen = [names.index(column) for column in self._chosen(names)]
            try:
                yield from reader.blocks(len(names), chosen)
            except UNREADABLE as error:
                raise self._unreadable(error, reader.line) from error

    def _unreadable(self, error: Exception, line: int) -> LoadError:
        """A text file is decoded ahead of its lines, so the line of a wrong byte is looked for by itself."""
        if isinstance(error, _BROKEN):
            return LoadError(
                f"{self.name} is damaged, or not all of it is there: {error}",
                detail=f"It can be read up to line {line}." if line > 1 else None,
                hint="Copy it again, and compare its size.",
                line=line,
            )
        hint = None
        if isinstance(error, UnicodeDecodeError):
            line = self._undecodable_line()
            byte = error.object[error.start]
            error = ValueError(f"byte 0x{byte:02x} is not {self._encoding.removesuffix('-sig').upper()}")
            hint = "Name the encoding that the file has: --encoding latin-1, for example."
        elif isinstance(error, UnicodeError):  # such as UTF-16 without its first mark
            hint = "Name the encoding that the file has with --encoding."
        where = f"{self.name}:{line}" if line else self.name
        return LoadError(f"{where}: {error}", hint=hint, line=line or None)

    def _undecodable_line(self) -> int:
        if not self.can_be_read_again:
            return 0
        with self._open_binary() as data:
            for number, line in enumerate(data, 1):
                try:
                    line.decode(self._encoding)
                except UnicodeDecodeError:
                    return number
        return 0

    def _open(self) -> TextIO:
        return io.TextIOWrapper(self._open_binary(), encoding=self._encoding, newline="")

    def _open_binary(self) -> BinaryIO:
        if not self.can_be_read_again:
            self._raw = cast("BinaryIO", self._source)
            return self._raw
        try:
            raw = Path(self.name).open("rb")  # noqa: SIM115 - closed with the text file that is made of it
        except OSError as error:
            raise LoadError(f"{self.name} cannot be read: {error.strerror}") from error
        self._raw = raw
        magic = raw.read(4)
        raw.seek(0)
        return self._decompressed(raw, magic)

    def _decompressed(self, raw: BinaryIO, magic: bytes) -> BinaryIO:
        if magic.startswith(_GZIP):
            return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
        if magic != _ZIP:
            return raw
        archive = zipfile.ZipFile(raw)
        members = [member for member in archive.namelist() if not member.endswith("/")]
        if len(members) != 1:
            raise LoadError(
                f"{self.name} holds {len(members)} files where one was expected", hint="Unpack it and load each."
            )
        return cast("BinaryIO", archive.open(members[0]))
