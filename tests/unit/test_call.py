"""A call of a verb keeps what its caller asked for when its statement gets numbers."""

from __future__ import annotations

from dataclasses import fields

from shardpool._call import Call
from shardpool._runtime.deadlines import Deadline


def test_a_numbered_call_is_as_its_caller_made_it_but_for_the_statement() -> None:
    given = {field.name: f"a {field.name}" for field in fields(Call)} | {"deadline": Deadline(7.5)}
    found = Call(**given).numbered("sql", [1], frozenset(("id",)))  # type: ignore[arg-type]
    told = {"query": "sql", "params": [1], "new": frozenset(("id",))}
    assert {field.name: getattr(found, field.name) for field in fields(Call)} == given | told
