"""The plans of a router by the text of their statements."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PlanCache(Generic[T]):
    """At most `most` plans by key, of at most so many `characters` of text altogether; the oldest go."""

    def __init__(self, most: int, characters: int) -> None:
        self._found: dict[Any, tuple[T, int]] = {}
        self._most = most
        self._characters = characters
        self._held = 0
        self._lock = threading.Lock()

    def get(self, key: Any) -> T | None:
        found = self._found.get(key)
        return None if found is None else found[0]

    def keep(self, key: Any, plan: T, characters: int) -> None:
        """Keep the plan of a text of so many characters, in the place of what was kept by that key."""
        with self._lock:
            self._drop(key)
            self._found[key] = plan, characters
            self._held += characters
            while len(self._found) > self._most or (self._held > self._characters and len(self._found) > 1):
                self._drop(next(iter(self._found)))

    def _drop(self, key: Any) -> None:
        _, characters = self._found.pop(key, (None, 0))
        self._held -= characters

    def clear(self) -> None:
        with self._lock:
            self._found.clear()
            self._held = 0
