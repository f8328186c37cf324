"""Where statements end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardpool.cli.statements import Entry, entries, is_complete
from shardpool.query.text.scanner import Scanner, first_word, split

# Texts that hold what would end a statement, or would open something, were it outside.
_NASTY = st.text(alphabet="aE;'\"$-/*\\\n é", max_size=12)


def _tagged(body: str, tag: str) -> str | None:
    return None if f"${tag}$" in body + "$" else f"${tag}${body}${tag}$"


_PIECES = st.one_of(
    st.sampled_from(["select", "1", "a$b$c", "$1", "+", "(", ")", "e", "é", "::", "-", "/", "* 2"]),
    # No backslash: behind an E'' string and a line end it would be one that escapes.
    _NASTY.map(lambda text: "'" + text.replace("'", "''").replace("\\", "") + "'"),
    _NASTY.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    _NASTY.map(lambda text: '"' + text.replace('"', '""') + '"'),
    st.builds(_tagged, _NASTY, st.sampled_from(["", "a", "é1", "E"])).filter(bool),
    _NASTY.map(lambda text: "--" + text.replace("\n", " ") + "\n"),
    _NASTY.map(lambda text: "/*" + text.replace("/", "").replace("*", "") + "/* ; */*/"),
)
_STATEMENTS = st.lists(_PIECES, max_size=5).map(lambda pieces: "x " + " ".join(map(str, pieces)) + "\n")


@given(st.lists(_STATEMENTS, max_size=4))
def test_statements_come_back_as_they_were_joined(statements: list[str]) -> None:
    assert split(";".join(statements)) == [statement.strip() for statement in statements]
    scanner = Scanner()
    assert list(scanner.feed("".join(statement + ";" for statement in statements))) == [
        statement.strip() for statement in statements
    ]
    assert scanner.is_blank and not scanner.rest


@given(st.text(alphabet="aE;'\"$-/*\\\n é1", max_size=40))
def test_lines_one_by_one_are_the_same_as_all_at_once(text: str) -> None:
    scanner = Scanner()
    lines = [line + "\n" for line in text.split("\n")]
    found = [statement for line in lines for statement in scanner.feed(line)]
    assert [*found, *([scanner.rest] if scanner.rest else [])] == split(text + "\n")


@given(st.text(alphabet="aE;'\"$-/*\\\n é1", max_size=40))
def test_no_text_is_lost_but_semicolons_spaces_and_remarks(text: str) -> None:
    def squeezed(given: str) -> str:
        return "".join(char for char in given if char.isalnum())

    if "-" not in text and "/" not in text:
        assert squeezed("".join(split(text))) == squeezed(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ;; \n; ", []),
        ("-- nothing;\n/* /* ; */ ; */ ;", []),
        ("-- first\nselect 1; select 2", ["-- first\nselect 1", "select 2"]),
        ("select 'it''s; fine'; x", ["select 'it''s; fine'", "x"]),
        (r"select 'a\'; x", [r"select 'a\'", "x"]),
        (r"select E'a\';'; x", [r"select E'a\';'", "x"]),
        (r"select e'\\'; x", [r"select e'\\'", "x"]),
        (r"select somee'\'; x", [r"select somee'\'", "x"]),
        ("select E'a'\n'\\';'; x", ["select E'a'\n'\\';'", "x"]),
        ("select E'a' -- ;\n'\\';'; x", ["select E'a' -- ;\n'\\';'", "x"]),
        ("select E'a' '\\'; x", ["select E'a' '\\'", "x"]),
        ('select ";"; x', ['select ";"', "x"]),
        ("do $$ begin; end; $$; x", ["do $$ begin; end; $$", "x"]),
        ("do $a$ $$ ; $b$ ; $a$; x", ["do $a$ $$ ; $b$ ; $a$", "x"]),
        ("select a$b; c$b", ["select a$b", "c$b"]),
        ("select $1$a$;$a$; x", ["select $1$a$;$a$", "x"]),
        ("select 1 --; not here\n; x", ["select 1 --; not here", "x"]),
        ("select 'open; x", ["select 'open; x"]),
        ("/* open; x", ["/* open; x"]),
        (
            "create or replace function f() begin atomic select 1; select case 1 when 1 then 2 end; end; x",
            [
                "create or replace function f() begin atomic select 1; select case 1 when 1 then 2 end; end",
                "x",
            ],
        ),
        ("begin; end; x", ["begin", "end", "x"]),
    ],
)
def test_cases(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_a_statement_that_has_begun_can_be_abandoned() -> None:
    scanner = Scanner()
    assert list(scanner.feed("select 'a\n")) == []
    assert not scanner.is_blank
    scanner.reset()
    assert scanner.is_blank
    assert list(scanner.feed("select 1;\n")) == ["select 1"]


def test_a_long_statement_takes_no_longer_than_its_length() -> None:
    scanner = Scanner()
    assert list(scanner.feed("select E'" + "x\\'y" * 100_000 + "\n")) == []
    for _ in range(20_000):
        assert list(scanner.feed("more\n")) == []
    assert len(next(scanner.feed("';\n"))) > 500_000


def test_commands_stand_between_statements() -> None:
    lines = [
        "-- first\n",
        "\\d orders\n",
        "select 1;\n",
        "select\n",
        "\\x;\n",
        "  \\q \n",
        "x; y; select '\n",
        "\\d';\n",
        "z",
    ]
    assert [(entry.line, entry.text, entry.is_command) for entry in entries(lines)] == [
        (2, "\\d orders", True),
        (3, "select 1", False),
        (4, "select\n\\x", False),
        (6, "\\q", True),
        (7, "x", False),
        (7, "y", False),
        (7, "select '\n\\d'", False),
        (9, "z", False),
    ]


def test_a_statement_is_given_before_the_next_line_is_asked_for() -> None:
    def lines() -> Iterator[str]:
        yield "select 1;\n"
        raise AssertionError("the next line was asked for")

    assert next(entries(lines())) == Entry(1, "select 1")


@pytest.mark.parametrize("text", ["", " ", "select 1;", "-- remark", "\\d", "\\x\nselect 1;", "select 1; -- x\n"])
def test_complete(text: str) -> None:
    assert is_complete(text)


@pytest.mark.parametrize("text", ["select 1", "select ';", "do $$ ;", "/* ;", "select 1; x", "select 1\n\\x"])
def test_incomplete(text: str) -> None:
    assert not is_complete(text)


def test_the_first_word() -> None:
    assert first_word("/* select */ -- x\n BEGIN work") == "begin"
    assert first_word("(1)") == first_word("") == ""
