"""What was made of the last texts, kept: of many short ones and of few long ones, which would fill the memory."""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import lru_cache, wraps
from typing import TypeVar

Text = TypeVar("Text", bound=Sized)
T = TypeVar("T")

# Characters of a statement from which on it is long: it may take some milliseconds to plan.
LONG = 2000
_SHORT_MAX, _LONG_MAX = 1024, 8


def remembered(function: Callable[[Text], T]) -> Callable[[Text], T]:
    """A function of a text that is called once for each text, as long as that is remembered."""
    short, long = lru_cache(_SHORT_MAX)(function), lru_cache(_LONG_MAX)(function)

    @wraps(function)
    def remember(text: Text) -> T:
        return (short if len(text) < LONG else long)(text)  # type: ignore[arg-type]

    return remember
