"""`select setval(…)`: the sequence is set on every shard, and no router goes on with what it has drawn before.

Each transaction restarts the sequence before it sets it. That is seen in the fingerprint of a shard's sequences, by
which every router notices within seconds that its block is of the time before; setval() alone leaves no trace.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection, sql
from psycopg.rows import tuple_row

from ..._call import Call
from ...errors import ScatterError, UnsupportedQuery
from ...query.plans.planned import Planned
from ...result import Result
from ..plans.planner import AsyncPlanner
from ..work import scatter
from ..work.handle import AsyncShardHandle

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

Setting = tuple[int, bool]


async def set_value(
    fleet: AsyncFleet,
    planner: AsyncPlanner,
    call: Call,
    planned: Planned,
    execute: Callable[[Call], Awaitable[Result]],
) -> Call:
    """Set the sequence on all shards; gives the call that answers with its value.

    `execute` runs the SELECT that the values come from.
    """
    plan = planned.plan.setting
    assert plan is not None
    if call.readonly:
        raise UnsupportedQuery("setval() in a call that only reads", hint="Leave out readonly=True.")
    values = planned.given(call.params)
    plain = replace(call, row_factory=tuple_row, binary=False, strategy=None)
    names = [name for name in fleet.topology.shards if name != fleet.topology.numbering_shard]
    handle = AsyncShardHandle(fleet, fleet.topology.numbering_shard)
    query, params = plan.sequence.with_params(values)
    schema, name, step = (await handle._execute(query, params, call.deadline, row_factory=tuple_row)).one()
    if abs(step) != 1:
        raise UnsupportedQuery(
            f"the sequence {schema}.{name} takes steps of {step}, and each shard has numbers of its own",
            hint="Set it on each shard by itself: shard(name).execute().",
        )
    query, params = plan.values.with_params(values)
    rows = (await execute(replace(plain, query=query, params=params))).rows
    settings = [(row[0], row[1]) for row in rows if None not in row]
    if len(rows) > 1:
        raise UnsupportedQuery(
            f"setval() for {len(rows)} rows", hint="Give it one: select setval('…', max(id)) from t."
        )
    for setting in settings:
        work = partial(_set, sql.Identifier(schema, name), setting)
        try:
            # An error of the value is told by one shard, before others are asked.
            await scatter.call(fleet, [fleet.topology.numbering_shard], work, call.deadline, readonly=False)
            await scatter.call(fleet, names, work, call.deadline, readonly=False)
        except ScatterError as error:
            alone = error.failures.get(fleet.topology.numbering_shard)
            if alone is not None:
                raise alone from error
            raise
        finally:
            planner.schema.numbers.drop()
            planner.schema.changed()
    told = sql.SQL(" union all ").join(
        [sql.SQL("select {}::pg_catalog.int8 as {}").format(row[0], sql.Identifier(plan.name)) for row in rows]
    )
    if not rows:
        told = sql.SQL("select null::pg_catalog.int8 as {} limit 0").format(sql.Identifier(plan.name))
    return replace(call, query=await planner.as_text(told, call.deadline), params=None)


async def _set(sequence: sql.Identifier, setting: Setting, conn: AsyncConnection[Any]) -> None:
    await conn.execute(sql.SQL("alter sequence {} restart").format(sequence))
    await conn.execute(
        sql.SQL("select pg_catalog.setval({}::pg_catalog.regclass, %s, %s)").format(sequence.as_string()), setting
    )
