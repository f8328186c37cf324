"""CSV files as blocks of records, with the lines that errors name."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from shardpool._wire.csv_blocks import CsvForm
from shardpool.errors import LoadError
from shardpool.load import CsvFile

TEXT = 'id,name\n1,"a\nb"\n2,NA\n\n3,"x, ""y"""\n'
ROWS = [("1", "a\nb"), ("2", None), ("3", 'x, "y"')]


Row = tuple[str | None, ...]


def rows(file: CsvFile) -> list[Row]:
    return [row for block in file.blocks() for row in block.rows()]


def texts(data: bytes, **options: str | Sequence[str]) -> list[str]:
    """The records as COPY gets them."""
    file = CsvFile(io.BytesIO(data), **options)  # type: ignore[arg-type]
    return [text for block in file.blocks() for text in block.texts]


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
    assert rows(file) == rows(file) == ROWS
    assert file.position == file.size


def test_a_record_is_found_on_the_line_where_it_begins(written: dict[str, Path]) -> None:
    assert [line for block in CsvFile(written["csv"]).blocks() for line in block.lines] == [2, 4, 6]
    for end in (b"\r\n", b"\r", b"\n"):
        plain = CsvFile(io.BytesIO(end.join([b"a,b", b"", b"1,2", b'3,"\r\n\n"', b"5,6", b""])))
        assert [line for block in plain.blocks() for line in block.lines] == [3, 4, 7]


def test_standard_input_is_read_once_with_its_header() -> None:
    file = CsvFile(io.BytesIO(TEXT.encode()), null="NA")
    assert file.columns() == ["id", "name"]
    assert rows(file) == ROWS
    assert not file.can_be_read_again


def test_columns_are_chosen_by_name_and_a_file_may_have_no_header(written: dict[str, Path]) -> None:
    assert rows(CsvFile(written["csv"], columns=["name"], null="NA")) == [("a\nb",), (None,), ('x, "y"',)]
    plain = CsvFile(io.BytesIO(b"1;2\n"), columns=["a", "b"], header=False, delimiter=";")
    assert (plain.columns(), rows(plain)) == (["a", "b"], [("1", "2")])


def test_records_are_picked_with_their_lines(written: dict[str, Path]) -> None:
    (block,) = CsvFile(written["csv"], null="NA").blocks()
    picked = block.picked([0, 2])
    assert (list(picked.rows()), picked.lines, picked.texts) == (
        [ROWS[0], ROWS[2]],
        [2, 6],
        ['1,"a\nb"', '3,"x, ""y"""'],
    )
    assert (list(block[1:].rows()), block[1:].lines) == (ROWS[1:], [4, 6])
    assert (block.column(1), block.keys([1, 0])[1]) == (["a\nb", None, 'x, "y"'], (None, "2"))


def test_a_block_ends_with_a_record() -> None:
    longest = "x" * 100_000
    data = f'a,b\n1,2\n"{longest}\n{longest}",3\n{longest},4\n5,"6\n"\n'.encode()
    for size in (1, 700, 66_000):
        many = b"".join(b"%d,%d\n" % (n, n) for n in range(size))
        read = rows(CsvFile(io.BytesIO(data + many)))
        assert read[:4] == [("1", "2"), (f"{longest}\n{longest}", "3"), (longest, "4"), ("5", "6\n")]
        assert read[4:] == [(str(n), str(n)) for n in range(size)]
    ends = b"a,b\r\n" + b"".join(b"%05d,x\r\n" % n for n in range(30_000))
    assert len(rows(CsvFile(io.BytesIO(ends)))) == 30_000


@pytest.mark.parametrize(
    "line", ["1,a b,", '"1","a,b",""', '1,"a\r\nb",', '1,"a\r\n""b""",', '1,x"y,"z,', '1, "x",', '1,"x" ,', "1,,\r"]
)
def test_records_are_passed_on_as_they_are(line: str) -> None:
    assert texts(f"a,b,c\n{line}\n".encode()) == [line]


def test_what_copy_cannot_take_is_written_in_a_form_that_it_takes() -> None:
    assert CsvForm("|", "NA").sent == CsvForm("|", "NA")
    assert CsvForm("§", "NA").sent == CsvForm(",", "NA")
    for null in ("a,b", '"', "a\nb", "\\.", "\0", "\ud800"):
        assert CsvForm(",", null).sent == CsvForm(",", "")
    assert texts("a§b\n1,2§\n".encode(), delimiter="§") == ['"1,2",']
    assert texts(b"a;b\n1;\\.\n", delimiter=";", null="\\.") == ['"1";']
    assert texts(b"a\n\\.\nx\n") == ['"\\."', "x"]
    assert texts(b"a,b\n\\.,1\n,2\n", columns=["a"]) == ['"\\."', ""]
    assert texts(b"a,b,c\n1,,x\n", columns=["c", "b"]) == ["x,"]
    assert texts(b'a,b,c\n1,"",NA\n', columns=["c", "b"], null="NA") == ['NA,""']


@pytest.mark.parametrize(
    ("data", "message", "line"),
    [
        (b"a,b\n1,2\n3\n", "1 fields where the header has 2", 3),
        (b'a,b\n1,"2\n', "a quote is opened and not closed", 2),
        (b'a,b\n1,2\n3,"4\n"\n5,x"y\n\n\n', "a quote is opened and not closed", 5),
        (b"a,b\n1,\xff\n", "byte 0xff is not UTF-8", 2),
        (b"", "is empty", None),
    ],
)
def test_a_bad_file_is_told_by_its_line(tmp_path: Path, data: bytes, message: str, line: int | None) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=message) as raised:
        rows(CsvFile(path))
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
        ('x"",y,', "", ("x", "y", None)),
        ('x"",y",""",""""', "", ("x", 'y,"', '"')),
        ('a"b""c"d,"""",""""""', "", ('ab"cd', '"', '""')),
        ('"NA",NA,""', "NA", ("NA", None, "")),
        ("1,,", "NA", ("1", "", "")),
    ],
)
def test_what_is_quoted_is_never_null(line: str, null: str, row: tuple[str | None, ...]) -> None:
    data = f"a,b,c\n{line}\n\n{line}\n".encode()
    assert rows(CsvFile(io.BytesIO(data), null=null)) == [row, row]


def test_quotes_are_told_with_any_delimiter_and_in_chosen_columns() -> None:
    data = b'a|b|c\n1|""|\n'
    assert rows(CsvFile(io.BytesIO(data), delimiter="|", columns=["c", "b"])) == [(None, "")]
    assert rows(CsvFile(io.BytesIO(b'a^b\n""^\n'), delimiter="^")) == [("", None)]


def read(path: Path, data: bytes, **options: str) -> str:
    """What is told of a file that cannot be read to its end."""
    path.write_bytes(data)
    with pytest.raises(LoadError) as told:
        file = CsvFile(path, **options)  # type: ignore[arg-type]
        file.columns()
        rows(file)
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
