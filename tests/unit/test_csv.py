"""CSV files as rows of text, with the lines that errors name."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from shardpool.errors import LoadError
from shardpool.load import CsvFile

TEXT = 'id,name\n1,"a\nb"\n2,NA\n\n3,"x, ""y"""\n'
ROWS = [("1", "a\nb"), ("2", None), ("3", 'x, "y"')]


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Path]:
    """The same text as a plain file, with a byte order mark, in gzip and in a zip archive."""
    data = TEXT.encode()
    paths = {name: tmp_path / f"file.{name}" for name in ("csv", "bom.csv", "csv.gz", "zip")}
    paths["csv"].write_bytes(data)
    paths["bom.csv"].write_bytes(b"\xef\xbb\xbf" + data)
    paths["csv.gz"].write_bytes(gzip.compress(data))
    with zipfile.ZipFile(paths["zip"], "w") as archive:
        archive.writestr("inside.csv", data)
    return paths


@pytest.mark.parametrize("kind", ["csv", "bom.csv", "csv.gz", "zip"])
def test_every_packing_gives_the_same_rows_as_often_as_asked(written: dict[str, Path], kind: str) -> None:
    file = CsvFile(written[kind], null="NA")
    assert file.columns() == ["id", "name"]
    assert list(file.rows()) == list(file.rows()) == ROWS
    assert file.position == file.size


def test_a_record_is_found_on_the_line_where_it_begins(written: dict[str, Path]) -> None:
    file = CsvFile(written["csv"])
    list(file.rows())
    assert [file.line_of(record) for record in (1, 2, 3, 4)] == [2, 4, 6, None]


def test_standard_input_is_read_once_with_its_header() -> None:
    file = CsvFile(io.BytesIO(TEXT.encode()), null="NA")
    assert file.columns() == ["id", "name"]
    assert list(file.rows()) == ROWS
    assert not file.can_be_read_again


def test_columns_are_chosen_by_name_and_a_file_may_have_no_header(written: dict[str, Path]) -> None:
    assert list(CsvFile(written["csv"], columns=["name"], null="NA").rows()) == [("a\nb",), (None,), ('x, "y"',)]
    plain = CsvFile(io.BytesIO(b"1;2\n"), columns=["a", "b"], header=False, delimiter=";")
    assert (plain.columns(), list(plain.rows())) == (["a", "b"], [("1", "2")])


def test_rows_that_are_not_kept_are_not_counted(written: dict[str, Path]) -> None:
    file = CsvFile(written["csv"], null="NA")
    assert [row[0] for row in file.rows(lambda row: row[1] is not None)] == ["1", "3"]
    assert file.line_of(2) == 6


@pytest.mark.parametrize(
    ("data", "message", "line"),
    [
        (b"a,b\n1,2\n3\n", "1 fields where the header has 2", 3),
        (b'a,b\n1,"2\n', "unexpected end of data", 2),
        (b"a,b\n1,\xff\n", "byte 0xff is not UTF-8", 2),
        (b"", "is empty", None),
    ],
)
def test_a_bad_file_is_told_by_its_line(tmp_path: Path, data: bytes, message: str, line: int | None) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=message) as raised:
        list(CsvFile(path).rows())
    assert raised.value.line == line


def test_names_that_are_not_there_are_refused(tmp_path: Path, written: dict[str, Path]) -> None:
    with pytest.raises(LoadError, match="cannot be read: No such file"):
        CsvFile(tmp_path / "nix.csv").columns()
    with pytest.raises(LoadError, match='no column "nme"') as raised:
        CsvFile(written["csv"], columns=["nme"]).columns()
    assert raised.value.hint == "Did you mean name?"
    with pytest.raises(LoadError, match="has no header"):
        CsvFile(written["csv"], header=False)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    with pytest.raises(LoadError, match="holds 2 files"):
        CsvFile(tmp_path / "two.zip").columns()


@pytest.mark.parametrize(
    ("line", "null", "row"),
    [
        ('1,,""', "", ("1", None, "")),
        ('"",,x', "", ("", None, "x")),
        ('"a\n"",,b","",', "", ('a\n",,b', "", None)),
        ('x"",y",', "", ('x""', 'y"', None)),
        ('"NA",NA,""', "NA", ("NA", None, "")),
        ("1,,", "NA", ("1", "", "")),
    ],
)
def test_what_is_quoted_is_never_null(line: str, null: str, row: tuple[str | None, ...]) -> None:
    data = f"a,b,c\n{line}\n\n{line}\r\n".encode()
    assert list(CsvFile(io.BytesIO(data), null=null).rows()) == [row, row]


def test_quotes_are_told_with_any_delimiter_and_in_chosen_columns() -> None:
    data = b'a|b|c\n1|""|\n'
    assert list(CsvFile(io.BytesIO(data), delimiter="|", columns=["c", "b"]).rows()) == [(None, "")]
    assert list(CsvFile(io.BytesIO(b'a^b\n""^\n'), delimiter="^").rows()) == [("", None)]


def read(path: Path, data: bytes, **options: str) -> str:
    """What is told of a file that cannot be read to its end."""
    path.write_bytes(data)
    with pytest.raises(LoadError) as told:
        file = CsvFile(path, **options)  # type: ignore[arg-type]
        file.columns()
        list(file.rows())
    return str(told.value)


def test_files_that_are_damaged_are_told_so(tmp_path: Path) -> None:
    whole = ("id,name\n" + "".join(f"{n},name {n * 7919}\n" for n in range(5000))).encode()
    packed = gzip.compress(whole)
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", whole)
    zipped = path.read_bytes()
    # Cut in the midst, in the header, before the checksum; with another checksum; of a zip file, half.
    for data in (packed[:-2000], packed[:12], packed[:-8], packed[:-8] + bytes(8), zipped[: len(zipped) // 2]):
        told = read(tmp_path / "file", data)
        assert "is damaged, or not all of it is there" in told and "HINT:  Copy it again" in told
    assert "It can be read up to line" in read(tmp_path / "file", packed[:-2000])


def test_bytes_of_another_encoding_are_told_with_their_line_and_the_option(tmp_path: Path) -> None:
    data = "id,name\n1,a\n2,Zürich\n".encode("latin-1")
    told = read(tmp_path / "file", data)
    assert "file:3: byte 0xfc is not UTF-8" in told and "--encoding latin-1" in told
    assert "byte 0xfc is not ASCII" in read(tmp_path / "file", data, encoding="ascii")
    assert "byte 0xfc is not UTF-8" in read(tmp_path / "file", b"\xfc,name\n")
    assert [*CsvFile(tmp_path / "file", encoding="latin-1").columns()] == ["ü", "name"]
    with pytest.raises(LoadError, match="'latin-99' is not an encoding"):
        CsvFile(tmp_path / "file", encoding="latin-99")
