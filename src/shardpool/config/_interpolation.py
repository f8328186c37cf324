"""`${VARIABLE}` in values, in the grammar of Docker Compose, applied to parsed scalars: no variable changes the shape.

`${V}`, `${V:-default}`, `${V-default}`, `${V:?message}`, `${V?message}`, `${V:+other}`, `${V+other}`, and `$$` for a
dollar sign (https://docs.docker.com/reference/compose-file/interpolation/). With a colon an empty variable counts as
unset. Other than in Compose an unset variable is an error, and so is a dollar sign alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ._nodes import Span, YamlNode
from ._problems import Problems

_REFERENCE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:?[-?+])?")
_REFERENCES_ONLY = re.compile(r"(?:\$\{[A-Za-z_][A-Za-z0-9_]*\})*")
_DOLLAR, _DOLLAR_OR_BRACE = re.compile(r"\$"), re.compile(r"[$}]")
_MAX_NESTING = 8


class BadReference(ValueError):
    """A variable that is not set, or a `$` that starts no reference; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Expanded:
    """The text, and the spans of it that come from the file rather than from the environment."""

    text: str
    literal: tuple[Span, ...]


def interpolate_tree(root: YamlNode, env: Mapping[str, str], problems: Problems) -> None:
    """Replace the references in every scalar below `root`; a scalar that cannot be is taken out."""
    todo = [root]
    while todo:
        node = todo.pop()
        if isinstance(node.value, str) and "$" in node.value:
            _interpolate(node, env, problems)
        else:
            todo.extend(node.fields.values() or node.items)


def _interpolate(node: YamlNode, env: Mapping[str, str], problems: Problems) -> None:
    try:
        expanded = expand(node.value, env)
    except BadReference as error:
        problems.add(node, str(error), error.hint)
        node.take_out()
    else:
        node.value = node.text = expanded.text
        node.literal = expanded.literal


def expand(text: str, env: Mapping[str, str]) -> Expanded:
    """The text with its references replaced; raises `BadReference`."""
    reader = _ScalarReader(text, env)
    reader.read_until_end(nesting=0)
    return Expanded("".join(reader.parts), tuple(reader.literal))


class _ScalarReader:
    """Reads one scalar from left to right; `parts` is what it has become so far."""

    def __init__(self, text: str, env: Mapping[str, str]) -> None:
        self.text = text
        self.env = env
        self.position = 0
        self.length = 0
        self.parts: list[str] = []
        self.literal: list[Span] = []

    def read_until_end(self, *, nesting: int, emit: bool = True) -> None:
        """Up to the end of the text, or when nested up to the closing brace."""
        stops = _DOLLAR_OR_BRACE if nesting else _DOLLAR
        while self.position < len(self.text):
            start = self.position
            stop = stops.search(self.text, start)
            self.position = stop.start() if stop else len(self.text)
            self._put(self.text[start : self.position], emit)
            if self.text[self.position : self.position + 1] != "$":
                return
            self._dollar(nesting, emit)

    def _dollar(self, nesting: int, emit: bool) -> None:
        self.position += 1
        if self.text.startswith("$", self.position):
            self.position += 1
            self._put("$", emit)
            return
        match = _REFERENCE.match(self.text, self.position)
        if match is None or nesting >= _MAX_NESTING:
            raise BadReference("a $ that starts no reference", "Write ${NAME} for a variable, $$ for a dollar sign.")
        self.position = match.end()
        self._reference(match[1], match[2] or "", nesting, emit)

    def _reference(self, name: str, operator: str, nesting: int, emit: bool) -> None:
        value = self.env.get(name)
        given = value is not None and not (operator.startswith(":") and value == "")
        message, literal = "", False
        match operator[-1:]:
            case "-":
                start = self.position
                self.read_until_end(nesting=nesting + 1, emit=emit and not given)
                # A default stands in the file even while it is not used.
                literal = not _REFERENCES_ONLY.fullmatch(self.text, start, self.position)
                missing = False
            case "+":
                self.read_until_end(nesting=nesting + 1, emit=emit and given)
                value, missing = None, False
            case "?":
                message, missing = self._message(), not given
            case _:
                missing = value is None
        # First, because what is no complete reference may be a password with a ${ in it, and its name is not told.
        if not self.text.startswith("}", self.position):
            raise BadReference("a reference without its closing brace", "Write ${NAME}; $$ is a dollar sign.")
        self.position += 1
        if missing and emit:
            raise _unset(name, message)
        if given:
            self._put_variable(value, emit, literal=literal)

    def _message(self) -> str:
        end = self.text.find("}", self.position)
        message = self.text[self.position : end if end >= 0 else len(self.text)]
        self.position += len(message)
        return message

    def _put(self, text: str, emit: bool) -> None:
        if text and emit:
            self.literal.append((self.length, self.length + len(text)))
            self.parts.append(text)
            self.length += len(text)

    def _put_variable(self, value: str | None, emit: bool, *, literal: bool = False) -> None:
        if literal:
            self._put(value or "", emit)
        elif value and emit:
            self.parts.append(value)
            self.length += len(value)


def _unset(name: str, message: str = "") -> BadReference:
    reason = f": {message}" if message else ""
    return BadReference(
        f"variable {name} is not set{reason}", f"Set {name}; where a default will do, write ${{{name}:-default}}."
    )
