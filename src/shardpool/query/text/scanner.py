"""Where one SQL statement ends and the next begins, as psql sees it. Pure: text in, statements out."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Letters are these of ASCII, and whatever is not ASCII. Said by what they are not: a million characters in a set take
# 10 ms to compile.
_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_LETTER_OR_DIGIT = r"[^\x00-/:-@\[-^`{-\x7f]"
_LETTER_DIGIT_OR_DOLLAR = r"[^\x00-#%-/:-@\[-^`{-\x7f]"
_TAG = rf"\$(?:{_LETTER}{_LETTER_OR_DIGIT}*)?\$"
_TOKEN = re.compile(
    rf"""(?P<space>\s+)
    | (?P<remark>--[^\n]*)
    | (?P<comment>/\*)
    | (?P<escaped>[eE]')
    | (?P<word>{_LETTER}{_LETTER_DIGIT_OR_DOLLAR}*)
    | (?P<parameter>\$[0-9]+)
    | (?P<dollar>{_TAG})
    | (?P<quote>['"])
    | (?P<end>;)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED_END = re.compile(r"(?:[^'\\]++|\\.|'')*+'", re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class Scanner:
    """Takes text line by line and gives each statement when its `;` has come.

    Lines are fed with their line ends; several at once are well, a part of a line is not.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._begin_statement()

    def _begin_statement(self) -> None:
        self._text.clear()
        self._inside = ""  # what is open: ', E, ", a dollar tag, or /*
        self._depth = 0  # of comments
        self._words: list[str] = []
        self._blocks = 0  # of BEGIN ATOMIC … END
        self._has_token = False
        # An E'' string goes on in the next '' after a line end, with its backslashes.
        self._escaped_before = self._line_end_since = False

    @property
    def is_blank(self) -> bool:
        """Nothing has come of the next statement but spaces and whole comments."""
        return not self._has_token and not self._inside

    @property
    def rest(self) -> str:
        """What has come of a statement whose `;` has not; empty when that are only comments."""
        return "" if self.is_blank else "".join(self._text).strip()

    @property
    def inside(self) -> str:
        """What is open: a quote, the tag of a dollar quote, or a comment's `/*`; empty when nothing is."""
        return {"E": "'"}.get(self._inside, self._inside)

    @property
    def first_word(self) -> str:
        """The first word of the statement that has begun, in lower case."""
        return self._words[0] if self._words else ""

    def reset(self) -> None:
        """Forget the statement that has begun."""
        self._begin_statement()

    def feed(self, lines: str) -> Iterator[str]:
        """The statements that end in these lines, without their `;`, empty ones left out."""
        start = at = 0
        while at < len(lines):
            at, ended = self._step(lines, at)
            if ended:
                self._text.append(lines[start : at - 1])
                statement = self.rest
                self._begin_statement()
                start = at
                if statement:
                    yield statement
        self._text.append(lines[start:])

    def _step(self, lines: str, at: int) -> tuple[int, bool]:
        """Go on by one token: where the next one begins, and whether this one ended the statement."""
        if self._inside:
            return self._close(lines, at), False
        token = _TOKEN.match(lines, at)
        assert token is not None
        kind, text = token.lastgroup or "", token.group()
        if kind == "space":
            self._line_end_since |= "\n" in text
        elif kind == "comment":
            self._inside, self._depth = "/*", 1
        elif kind == "end":
            return token.end(), not self._blocks
        elif kind != "remark":
            self._has_token = True
            self._open(kind, text)
        return token.end(), False

    def _open(self, kind: str, text: str) -> None:
        goes_on = self._escaped_before and self._line_end_since
        self._escaped_before = self._line_end_since = False
        if kind == "escaped" or (text == "'" and goes_on):
            self._inside = "E"
        elif kind in ("quote", "dollar"):
            self._inside = text
        elif kind == "word":
            self._count_blocks(text.lower())

    def _close(self, lines: str, at: int) -> int:
        """Where what is open ends, or the end of the text while it stays open. A doubled quote ends and begins."""
        if self._inside == "/*":
            return self._close_comment(lines, at)
        if self._inside == "E":
            closing = _ESCAPED_END.match(lines, at)
            end = closing.end() if closing else -1
            self._escaped_before = end >= 0
        else:
            end = lines.find(self._inside, at)
            end = end + len(self._inside) if end >= 0 else -1
        if end < 0:
            return len(lines)
        self._inside = ""
        return end

    def _close_comment(self, lines: str, at: int) -> int:
        edge = _COMMENT_EDGE.search(lines, at)
        if edge is None:
            return len(lines)
        self._depth += 1 if edge.group() == "/*" else -1
        if not self._depth:
            self._inside = ""
        return edge.end()

    def _count_blocks(self, word: str) -> None:
        """The body of an SQL function holds `;`: counted as psql does, only behind CREATE … FUNCTION or PROCEDURE."""
        if len(self._words) < 4:
            self._words.append(word)
        if self._words[0] != "create" or not {"function", "procedure"} & set(self._words):
            return
        if word == "begin" or (word == "case" and self._blocks):
            self._blocks += 1
        elif word == "end" and self._blocks:
            self._blocks -= 1


def split(text: str) -> list[str]:
    """All statements of a text; the last one may lack its `;`."""
    scanner = Scanner()
    statements = list(scanner.feed(text))
    return [*statements, scanner.rest] if scanner.rest else statements


def first_word(statement: str) -> str:
    """The first word of a statement in lower case, past comments; empty when it begins otherwise."""
    scanner = Scanner()
    for _ in scanner.feed(statement):
        break
    return scanner.first_word
