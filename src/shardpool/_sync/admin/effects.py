# Generated from _async/admin/effects.py by tools/unasync.py: edit that one, then run `make sync`.
"""What `check` tells of what writes set off: those that are refused for it, and lookups that are not kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

from ...control.catalog import BODIES_QUERY, BUILT_IN_QUERY, CATALOG_QUERY, facts, further
from ...control.lookups import STATE_QUERY, LookupState, lookup_finding, state_of, state_params
from ...query.analysis.catalog import NeedsBodies
from ...query.analysis.catalog_reading import make_catalog, with_bodies
from ...query.plans.effects import effect_findings
from ...report import Finding
from ...topology import Topology


def effects(conn: Connection[Any], topology: Topology, name: str) -> list[Finding]:
    """The findings on the tables of a shard, which are the same on all that have the same triggers."""
    tables = list(topology.placements)
    catalog_facts = _asked(conn, CATALOG_QUERY, [tables])
    answers = {key: _asked(conn, *asked) for key, asked in further(catalog_facts, tables).items()}
    catalog = make_catalog(name, facts(catalog_facts, answers), _asked(conn, BUILT_IN_QUERY, None), topology)
    while True:
        try:
            return [*effect_findings(topology, catalog), *_lookups(conn, topology, name)]
        except NeedsBodies as needed:
            rows = _asked(conn, BODIES_QUERY, [sorted(needed.names)])
            catalog = with_bodies(catalog, needed.names, rows)


def _lookups(conn: Connection[Any], topology: Topology, name: str) -> list[Finding]:
    """The findings on columns that are unique over the fleet."""
    found: list[Finding] = []
    for lookup in (lookup for lookups in topology.lookups.values() for lookup in lookups):
        cursor = conn.cursor(row_factory=tuple_row)
        cursor.execute(STATE_QUERY, state_params(lookup))
        state: LookupState = state_of(lookup, cursor.fetchone() or (None, 0))
        found += lookup_finding(lookup, state, name)
    return found


def _asked(conn: Connection[Any], query: str, params: Sequence[Any] | None) -> Any:
    cursor = conn.cursor(row_factory=tuple_row)
    cursor.execute(query, params)
    (value,) = cursor.fetchone() or (None,)
    return json.loads(value or "null")
