"""What a statement can leave behind in its session, told from its text alone. Pure, and cached by the text.

A text is harmless only when each of its statements begins with a word that is known to leave nothing, and when nothing
in it can: every doubt counts against it, and costs no more than a reset that was not needed. What a function or a
trigger of the user does inside the server is not seen.
"""

from __future__ import annotations

import re
from enum import IntEnum


class Left(IntEnum):
    """What a session is after a statement: as before, in need of a reset, or past one."""

    NOTHING = 0
    STATE = 1
    LASTING = 2


# Longer texts are not looked through: data more than statements, and a reset costs less than reading them.
_LONGEST = 100_000
LONGEST_CACHED = 2_000
_CACHED = 4096

# Possessive: what is a comment to PostgreSQL must not be given back, to be read as a statement.
_BLANK = rb"(?>(?:[ \t\n\r\f\v(]|--[^\n\r]*|/\*(?:(?!/\*|\*/).)*\*/)*)"
_REPLACE = rb"(?:or[ \t\n\r]+replace[ \t\n\r]+)?"
_S = rb"[ \t\n\r]+"
_HARMLESS = re.compile(
    rb"\A" + _BLANK + rb"(?:\Z|(?:"
    rb"select|insert|update|delete|merge|with|values|table|explain|show|copy|fetch|move|close"
    rb"|begin|start|commit|end|rollback|abort|savepoint|release|lock|notify|declare"
    rb"|analyze|vacuum|truncate|cluster|reindex|refresh|checkpoint|drop|grant|revoke|comment|reassign|security"
    rb"|set" + _S + rb"(?:local|transaction|constraints)"
    rb"|create" + _S + _REPLACE + rb"(?:(?:unlogged|unique|materialized|recursive)" + _S + rb")?"
    rb"(?:table|index|view|schema|type|domain|sequence|function|procedure|trigger|policy|role|user|group|database"
    rb"|publication|statistics|aggregate|operator|collation|cast|rule|foreign|server)"
    rb"|alter" + _S + rb"(?:table|index|view|materialized|schema|type|domain|sequence|function|procedure|trigger"
    rb"|policy|role|user|group|database|publication|statistics|system|default)"
    rb")(?![\w$\x80-\xff]))",
    re.IGNORECASE | re.DOTALL,
)
# Anywhere in the text, also in a string, which may be a function's body: query_to_xml() runs what it is given.
_SUSPECT = re.compile(
    rb"set_config|setseed|advisory_(?:un)?lock|pg_temp|u&\"|_to_xml"
    rb"|\b(?:create|replace|local|global|into)[ \t\n\r\f\v]+temp(?:orary)?\b",
    re.IGNORECASE,
)
# Between these words and TEMP there may be a comment; then it is not looked at closely.
_COMMENT = re.compile(rb"--|/\*")
_TEMP = re.compile(rb"\btemp(?:orary)?\b", re.IGNORECASE)
_HELD = re.compile(rb"\bhold\b", re.IGNORECASE)
_DECLARE = re.compile(rb"\bdeclare\b", re.IGNORECASE)
# set_config(name, value, true) ends with its transaction, as row security is commonly told its tenant.
_LOCAL_VALUE = rb"(?:'(?:(?!set_config)[^'\\])*'|\$\d+)(?:::(?:text|varchar))?"
_SET_LOCALLY = re.compile(
    rb"\bset_config\s*\(\s*" + _LOCAL_VALUE + rb"\s*,\s*" + _LOCAL_VALUE + rb"\s*,\s*true\s*\)", re.IGNORECASE
)
# What DISCARD ALL does not undo either: a loaded library, a connection of dblink.
_LASTING = re.compile(rb"\A" + _BLANK + rb"load(?![\w$\x80-\xff])|\bdblink_", re.IGNORECASE | re.DOTALL)

# What ends the transaction that it runs in: of what comes after each statement is one of its own.
_ENDS = re.compile(
    rb"\A" + _BLANK + rb"(?:commit|end|abort|rollback(?!(?:" + _S + rb"(?:work|transaction))?" + _S + rb"to\b)"
    rb"|prepare" + _S + rb"transaction)(?![\w$\x80-\xff])",
    re.IGNORECASE | re.DOTALL,
)
ENDS = 16
"""A mark beside those of `Left`: a text has ended the transaction."""
# Anywhere in what leaves something, also in the body of a DO.
_FORGETS = re.compile(rb"\b(?:deallocate|discard)\b", re.IGNORECASE)
FORGETS = 32
"""A mark beside those of `Left`: a text may have thrown away what is prepared by the protocol."""

_left_by_text: dict[bytes, Left] = {}
_marks_by_text: dict[bytes, int] = {}


def marks_of(text: bytes) -> int:
    """What the statements of a text may leave behind, with `ENDS` and `FORGETS`."""
    marks = _marks_by_text.get(text)
    if marks is None:
        left = left_by(text)
        marks = int(left) | (ENDS if any(map(_ENDS.match, text[:_LONGEST].split(b";"))) else 0)
        marks |= FORGETS if left and _FORGETS.search(text) else 0
        if len(text) <= LONGEST_CACHED:
            if len(_marks_by_text) >= _CACHED:
                _marks_by_text.clear()
            _marks_by_text[text] = marks
    return marks


def dirties(text: str | bytes) -> bool:
    """Whether the statements of a text may leave something in the session that the next caller would find."""
    return left_by(text.encode() if isinstance(text, str) else text) is not Left.NOTHING


def left_by(text: bytes) -> Left:
    """What the statements of a text may leave behind."""
    left = _left_by_text.get(text)
    if left is None:
        left = _judged(text)
        if len(text) <= LONGEST_CACHED:
            if len(_left_by_text) >= _CACHED:
                _left_by_text.clear()
            _left_by_text[text] = left
    return left


def _judged(text: bytes) -> Left:
    if len(text) > _LONGEST:
        return Left.STATE
    # A semicolon within a string cuts it: what follows seldom begins like a harmless statement.
    statements = text.split(b";")
    if any(_LASTING.search(statement) for statement in statements):
        return Left.LASTING
    if not all(map(_HARMLESS.match, statements)) or _is_suspect(_SET_LOCALLY.sub(b"", text)):
        return Left.STATE
    return Left.NOTHING


def _is_suspect(text: bytes) -> bool:
    return bool(
        _SUSPECT.search(text)
        or (_COMMENT.search(text) and _TEMP.search(text))
        or (_DECLARE.search(text) and _HELD.search(text))
    )
