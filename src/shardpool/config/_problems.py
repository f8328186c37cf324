"""Everything that is wrong with one file, gathered so that it can be told in one go."""

from __future__ import annotations

from ..errors import ConfigError, Problem
from ._nodes import Node

# A file that is not a topology at all would give a problem per line; nobody reads more than these.
MAX_PROBLEMS = 200


class TooManyProblems(Exception):
    """Stops the checks: the problems found so far are enough."""


class Problems:
    """Collects the problems of one file. No message may hold a value that could be a secret."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: list[Problem] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, node: Node, message: str, hint: str | None = None) -> None:
        """A problem with a value."""
        self.add_at(node.line, node.column, node.path, message, hint)

    def add_at_key(self, node: Node, message: str, hint: str | None = None) -> None:
        """A problem with the key of a value, or with the whole entry."""
        self.add_at(node.key_line or node.line, node.key_column or node.column, node.path, message, hint)

    def add_at(self, line: int, column: int, path: str, message: str, hint: str | None = None) -> None:
        """A problem at a place of the text."""
        problem = Problem(path=path, message=message, hint=hint, file=self.file, line=line, column=column)
        if problem not in self._found:
            self._found.append(problem)
        if len(self._found) >= MAX_PROBLEMS:
            raise TooManyProblems

    def error(self) -> ConfigError:
        """The error with all of them, in file order."""
        return ConfigError(sorted(self._found, key=lambda problem: (problem.line, problem.column)))
