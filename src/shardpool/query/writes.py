"""INSERT, UPDATE, DELETE and MERGE."""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedQuery
from ..topology import Topology
from .catalog import Catalog
from .plan import Plan


def plan_write(sql: str, tree: Any, topology: Topology, catalog: Catalog) -> Plan:
    raise UnsupportedQuery("writes are not planned yet")


def analyse_write(analysis: Any, tree: Any, parent: Any, ctes: Any) -> Any:
    raise UnsupportedQuery("writes are not planned yet")
