"""`SELECT setval(…)`, taken apart: which sequence is set, and to what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..text.names import output_name
from ..text.statement import inner, kind, parse, strings
from ..text.template import Template, untimed
from ..text.tree import copy


@dataclass(frozen=True, slots=True)
class Setting:
    """Statements that give the schema, name and step of the sequence, and its value and whether that is used up.

    `name` is that of the column.
    """

    sequence: Template
    values: Template
    name: str


_SEQUENCE = """
select n.nspname, c.relname, q.seqincrement
from pg_catalog.pg_sequence q join pg_catalog.pg_class c on c.oid operator(pg_catalog.=) q.seqrelid
join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
where q.seqrelid operator(pg_catalog.=) null::pg_catalog.regclass
"""


def setting(tree: Any) -> Setting | None:
    """What a SELECT sets; None when it does not consist of one call of setval()."""
    if kind(tree) != "SelectStmt" or len(tree.target_list) != 1:
        return None
    target = tree.target_list[0].res_target
    call = inner(target.val)
    if kind(call) != "FuncCall" or strings(call.funcname) not in (["setval"], ["pg_catalog", "setval"]):
        return None
    if len(call.args) not in (2, 3):
        return None
    sequence = parse(_SEQUENCE)[0]
    inner(sequence.where_clause).rexpr.type_cast.arg.CopyFrom(call.args[0])
    values = copy(tree)
    arguments = [*call.args[1:]] + ([] if len(call.args) == 3 else [_true()])
    del values.target_list[:]
    for argument, type_ in zip(arguments, ("int8", "bool"), strict=True):
        cast = parse(f"select null::pg_catalog.{type_}")[0].target_list[0].res_target.val
        cast.type_cast.arg.CopyFrom(argument)
        values.target_list.add().res_target.val.CopyFrom(cast)
    return Setting(untimed(sequence), untimed(values), output_name(target))


def _true() -> Any:
    """The constant true."""
    return parse("select true")[0].target_list[0].res_target.val
