"""The SQLSTATEs of what PostgreSQL's grammar says is wrong: the parser's library tells messages alone."""

from __future__ import annotations

import re

import psycopg

# Of errors that are no syntax_error: those that gram.y, scan.l and the checks of encodings raise with other codes.
_STATES = {
    "42P20": r"frame (start|end|starting from) .*",
    "0A000": r".* not yet implemented|.* constraints cannot be marked .*|current database cannot be changed|"
    r"CREATE (EXTENSION|OR REPLACE) .* (is no longer|is not) supported|WITH CHECK OPTION not supported .*|"
    r"only string constants are supported in JSON_TABLE .*",
    "22023": r"precision for type float must be .*",
    "22021": r"invalid byte sequence for encoding .*",
    "42939": r'role name ".*" is reserved',
    "54001": r"stack depth limit exceeded",
}
# Of an escape in U&'…' it is a syntax_error.
_ESCAPE = ("scan.l", "invalid Unicode escape")


def grammar_error(message: str, source: str | None) -> psycopg.Error:
    """The error that a server would raise; `source` is the file of PostgreSQL that the message comes from."""
    states = (state for state, pattern in _STATES.items() if re.fullmatch(pattern, message, re.DOTALL))
    state = "22025" if (source, message) == _ESCAPE else next(states, "42601")
    return psycopg.errors.lookup(state)(message)
