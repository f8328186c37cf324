"""The topology file: read and checked here, and nowhere else.

::

    text ── _yaml ──▶ nodes with line, column and path ── _interpolation ──▶ ${VARIABLES} replaced
         ── _urls ──▶ URLs as mappings ── _validation (_models, _fields) ──▶ the shape is right
         ── _shards (_connect, _libpq), _keyspaces (_owners), _tables ──▶ Topology

Every stage adds to the same `_problems` and goes on with what is left, so that one `ConfigError` tells everything.
"""

from ._describe import describe
from ._load import load_topology, parse_topology
from ._schema import topology_schema

__all__ = ["describe", "load_topology", "parse_topology", "topology_schema"]
