"""The plans of a router by the text of their statements."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PlanCache(Generic[T]):
    """At most `most` plans by key, of at most so many `characters` of text altogether; the oldest go."""

    def __init__(self, most: int, characters: int) -> None:
        self._plans: dict[Any, T] = {}
        self._lengths: dict[Any, int] = {}
        # Not a method of ours: every statement without a key asks.
        self.get: Callable[[Any], T | None] = self._plans.get
        self._most = most
        self._characters = characters
        self._held = 0
        self._lock = threading.Lock()

    def keep(self, key: Any, plan: T, characters: int) -> None:
        """Keep the plan of a text of so many characters, in the place of what was kept by that key."""
        with self._lock:
            self._drop(key)
            self._plans[key], self._lengths[key] = plan, characters
            self._held += characters
            while len(self._plans) > self._most or (self._held > self._characters and len(self._plans) > 1):
                self._drop(next(iter(self._plans)))

    def _drop(self, key: Any) -> None:
        self._plans.pop(key, None)
        self._held -= self._lengths.pop(key, 0)

    def clear(self) -> None:
        with self._lock:
            self._plans.clear()
            self._lengths.clear()
            self._held = 0
