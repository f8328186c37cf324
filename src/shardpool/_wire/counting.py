"""A cursor that knows what each statement of its `executemany` was answered: psycopg tells only of all together.

`_set_results` is psycopg's own, called for each answer in the order of the statements: see docs/adr/0010.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_made: dict[Any, Any] = {}


def counting(factory: Any) -> Any:
    """A subclass of a class of cursors, whose `told(rowcount)` is called for each answer that is no error."""
    found = _made.get(factory)
    if found is None:
        found = _made[factory] = type(f"Counting{factory.__name__}", (_Counting, factory), {})
    return found


class _Counting:
    told: Callable[[int], None]

    def _set_results(self, results: list[Any]) -> None:
        super()._set_results(results)  # type: ignore[misc]
        self.told(results[-1].command_tuples or 0)
