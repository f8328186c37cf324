"""One plan for all statements that differ in the values of literals only. Pure.

It is made of the statement with parameters in their places, and taken only where it is, with the values put in, the
very plan that is made of the text; `tests/unit/query/test_patterns.py` compares the two for thousands of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

from ...topology import Topology
from ..analysis.catalog import Catalog
from ..analysis.pins import Both, Const, Either, In
from ..text.literals import Literals, variable, with_parameters
from ..text.statement import parse
from .bound import bind
from .plan import Gathered, Plan, Split
from .planner import plan as make_plan


class Pattern:
    """The plan of a statement with parameters for the literals of these `numbers`."""

    def __init__(self, numbers: tuple[int, ...], plan: Plan) -> None:
        self.numbers = numbers
        self._plan = plan
        self._fields = {field.name: getattr(plan, field.name) for field in fields(plan)}
        # The keyspace, and the number of the literal that is the key of all tables, when it is that simple.
        self.key = None if plan.key_param is None else (plan.key_param[0], numbers[plan.key_param[1]])
        self._uses = _filler(plan.uses)
        self._keys = _filler(plan.scattered.keys) if isinstance(plan.scattered, Split) else None

    def filled(self, sql: str, values: Sequence[Any]) -> Plan:
        """The plan of a text whose literals have these values."""
        given = [values[number] for number in self.numbers]
        plan = self._plan
        scattered = plan.scattered
        if isinstance(scattered, Split):
            scattered = replace(scattered, keys=self._keys(given) if self._keys else scattered.keys, sql=sql)
        elif isinstance(scattered, Gathered):
            scattered = replace(scattered, sql=sql)
        uses = self._uses(given) if self._uses else plan.uses
        # By its dictionary: `replace` takes five times as long, for every text.
        filled: Plan = object.__new__(Plan)
        filled.__dict__.update(self._fields, sql=sql, uses=uses, scattered=scattered)
        return filled


def fixed(numbers: Sequence[int], values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of the literals that have to be the same."""
    if len(numbers) == len(values):
        return ()
    return tuple(value for number, value in enumerate(values) if number not in numbers)


def pattern(sql: str, found: Literals, made: Plan, topology: Topology, catalog: Catalog) -> Pattern | None:
    """The pattern of a text whose plan was `made`; None where each text has to be planned by itself.

    That is all but what one shard answers as it stands: the statements of the others are made of the text.
    """
    numbers = variable(sql, parse(sql)[0])
    if not numbers or not _is_plain(made):
        return None
    text = with_parameters(sql, numbers)
    try:
        if len(bind(made, topology, ()).shards) != 1:
            return None
        planned = make_plan(text, topology, catalog)
    except Exception:  # what cannot be planned so is planned by its text
        return None
    if not _is_plain(planned) or not _is_one_key(planned) or getattr(planned.scattered, "sql", text) != text:
        return None
    candidate = Pattern(numbers, planned)
    return candidate if candidate.filled(sql, found.values) == made else None


def _is_plain(plan: Plan) -> bool:
    match plan.scattered:
        case None:
            pass
        case Split(timed=None, listed=None):
            pass
        case Gathered(name="write", copies=None, timed=None):
            pass
        case _:
            return False
    others = (plan.refusal, plan.check, plan.rekeyed, plan.numbers, plan.setting, plan.looked)
    return not plan.key_assignments and not plan.loose and all(other is None for other in others)


def _is_one_key(plan: Plan) -> bool:
    """Whether each key is compared with one value: equal ones would be one, and others are several."""
    parts = [part for use in plan.uses for part in use.pins]
    pins = [pin for part in parts for pin in part]
    return all(len(part) <= 1 for part in parts) and not any(
        isinstance(pin, Both | Either) or (isinstance(pin, In) and len(pin.consts) > 1) for pin in pins
    )


def _filler(value: Any) -> Callable[[Sequence[Any]], Any] | None:
    """Makes the same with values for parameters; None where there are none. Found once: each text is to be quick."""
    if isinstance(value, Const):
        number = value.param - 1
        return None if number < 0 else lambda given: Const(given[number], 0, value.cast, value.holder)
    parts = value if isinstance(value, tuple) else _fields(value) if is_dataclass(value) else ()
    fillers = [_filler(part) for part in parts]
    if not any(fillers):
        return None
    pairs = list(zip(parts, fillers, strict=True))
    make = tuple if isinstance(value, tuple) else partial(_made, type(value))
    return lambda given: make([part if filler is None else filler(given) for part, filler in pairs])


def _fields(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, field.name) for field in fields(value))


def _made(kind: Any, parts: Sequence[Any]) -> Any:
    return kind(*parts)
