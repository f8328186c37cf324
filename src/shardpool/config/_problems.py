"""Everything that is wrong with one file, gathered so that it can be told in one go."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConfigError, Problem, nearest
from ._nodes import YamlNode

# A file that is not a topology at all would give a problem per line; nobody reads more than these.
MAX_PROBLEMS = 200


class TooManyProblems(Exception):
    """Stops the checks: the problems found so far are enough."""


class Problems:
    """Collects the problems of one file. No message may hold a value that could be a secret."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: list[Problem] = []
        self._settled: set[tuple[int, int]] = set()

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, node: YamlNode, message: str, hint: str | None = None) -> None:
        """A problem with a value."""
        self.add_at(node.line, node.column, node.path, message, hint)

    def add_at_key(self, node: YamlNode, message: str, hint: str | None = None) -> None:
        """A problem with the key of a value, or with the whole entry."""
        self.add_at(node.key_line or node.line, node.key_column or node.column, node.path, message, hint)

    def add_unknown_field(self, node: YamlNode, known: Iterable[str]) -> None:
        """A field that does not exist. It is named only when it is nearly one that does: in `{password: a,b: c}` the
        field "b" is the rest of a password."""
        hint = nearest(str(node.key), known)
        is_named = hint.startswith("Did you mean")
        path = node.path if is_named or node.parent is None else node.parent.path
        if not is_named and node.value is None:
            hint = "Quote text that holds a comma, colon, bracket or #."
        self.add_at(node.key_line, node.key_column, path, "unknown field", hint)

    def add_at(self, line: int, column: int, path: str, message: str, hint: str | None = None) -> None:
        """A problem at a place of the text."""
        if (line, column) in self._settled:
            return
        problem = Problem(path=path, message=message, hint=hint, file=self.file, line=line, column=column)
        if problem not in self._found:
            self._found.append(problem)
        if len(self._found) >= MAX_PROBLEMS:
            raise TooManyProblems

    def settle(self) -> None:
        """Let later problems at the same places go: what cannot be read well is not checked further."""
        self._settled = {(problem.line, problem.column) for problem in self._found}

    def error(self) -> ConfigError:
        """The error with all of them, in file order."""
        return ConfigError(sorted(self._found, key=lambda problem: (problem.line, problem.column)))
