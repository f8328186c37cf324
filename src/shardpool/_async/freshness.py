"""Whether what the shards have told of their tables still holds: DDL may come from anywhere, at any time.

A catalog is read once and plans are kept. So each shard that is asked is looked at again every two seconds, before the
statement is sent: one short query for a number that changes with the rows of the system catalogs that were read. An
answer can so be planned by a catalog that is two seconds old, and not older.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial as bind_arguments
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from .._concurrency import async_run_all
from ..errors import ShardError
from . import planning

if TYPE_CHECKING:
    from .router import AsyncRouter

# The longest that a look may hold up a call, in seconds.
_PATIENCE = 0.5


async def is_fresh(router: AsyncRouter, names: Sequence[str], deadline: float, *, readonly: bool = False) -> bool:
    """False when one of the shards has changed its tables or functions since they were read: plan again then.

    A shard that does not answer is none that has changed: the call itself will find what is wrong with it.
    """
    seen = router._knowledge.seen
    now = monotonic()
    due = [name for name in names if name not in seen or now >= seen[name].until]
    if not due:
        return True
    until = min(deadline, now + min(_PATIENCE, (deadline - now) / 3))
    outcomes = await async_run_all([bind_arguments(_has_changed, router, name, until, readonly) for name in due])
    for _, error in outcomes:
        if error is not None and not isinstance(error, ShardError | psycopg.Error):
            raise error
    if not any(changed for changed, _ in outcomes):
        return True
    planning.forget_catalog(router)
    return False


async def _has_changed(router: AsyncRouter, name: str, until: float, readonly: bool) -> bool:
    known = router._knowledge
    before = known.seen.get(name)
    if before is not None:
        # Written first: of those who come meanwhile, or after one who gets no answer, nobody looks again.
        known.seen[name] = planning.Seen(monotonic() + planning.SEEN_SECONDS, before.mark)
        mark = await planning.mark_of(router, name, until, readonly)
        known.seen[name] = planning.Seen(monotonic() + planning.SEEN_SECONDS, mark)
        return mark != before.mark
    # Nothing to compare with but the catalog of another shard, which may be older.
    return not await planning.is_like(router, name, until, readonly)
