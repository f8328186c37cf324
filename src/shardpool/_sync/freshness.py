# Generated from _async/freshness.py by tools/unasync.py: edit that one, then run `make sync`.
"""Whether what the shards have told of their tables still holds: DDL may come from anywhere, at any time.

A catalog is read once and plans are kept. So each shard that is asked is looked at again every two seconds, before the
statement is sent: one short query for a number that changes with the rows of the system catalogs that were read. An
answer can so be planned by a catalog that is two seconds old, and not older.

A look runs beside the call that has begun it, and is waited for a moment only: one that is late holds nothing up, costs
no connection, and tells the later calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial as bind_arguments
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from .._joint import own
from ..errors import ShardError
from . import planning
from .planning import SEEN_SECONDS, Seen

if TYPE_CHECKING:
    from .router import Router

# The longest that a look may hold up a call, and that it may take, in seconds.
_PATIENCE = 0.5
_LONGEST = 1.0


def is_fresh(router: Router, names: Sequence[str], deadline: float, *, readonly: bool = False) -> bool:
    """False when one of the shards has changed its tables or functions since they were read: plan again then.

    A shard that does not answer is none that has changed: the call itself will find what is wrong with it.
    """
    known = router._knowledge
    now = monotonic()
    runs = []
    for name in names:
        before = known.seen.get((name, readonly))
        if before is not None:
            if now < before.until:
                continue
            # Written first: of those who come meanwhile, or after one who gets no answer, nobody looks again.
            known.seen[name, readonly] = Seen(now + SEEN_SECONDS, before.mark)
        look = bind_arguments(_has_changed, router, name, readonly, None if before is None else before.mark)
        runs.append(known.joint.run(("look", name, readonly, router._state), look))
    until = min(deadline, now + min(_PATIENCE, (deadline - now) / 3))
    has_changed = False
    for run in runs:
        changed, error = run.wait(until) or (False, None)
        if error is not None and not isinstance(error, ShardError | psycopg.Error):
            raise own(error) from error
        has_changed = has_changed or changed
    return not has_changed


def _has_changed(router: Router, name: str, readonly: bool, before: str | None) -> bool:
    until = monotonic() + _LONGEST
    if before is None:
        # Nothing to compare with but the catalog of another shard, which may be older.
        try:
            changed = not planning.is_like(router, name, until, readonly)
        except (ShardError, psycopg.Error):
            router._knowledge.seen[name, readonly] = Seen(monotonic() + SEEN_SECONDS, None)
            raise
    else:
        mark = planning.mark_of(router, name, until, readonly)
        router._knowledge.seen[name, readonly] = Seen(monotonic() + SEEN_SECONDS, mark)
        changed = mark != before
    if changed:
        planning.forget_catalog(router)
    return changed
