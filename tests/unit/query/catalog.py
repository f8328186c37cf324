r"""A small fleet without servers: what the planner knows of it, as values.

In every keyspace the shard of a key can be told by looking at it:

- `tenants` (bigint): the keys 0 to 11 are on s0, s1, s2, s3, s0, … (key mod 4); all others by their hash
- `notes` (text): ann, bob, cid, dan are on s0, s1, s2, s3
- `places` (text, bigint): ('eu', 0) to ('eu', 3) are on s0 to s3, ('us', 0) to ('us', 3) on s3 to s0
- `events` (date): before 2024 on s0, 2024 on s1, 2025 on s2, from 2026 on s3
- `words` (text): below "g" on s0, below "n" on s1, below "t" on s2, the others on s3

`built_in.json` lists the functions of PostgreSQL 18 itself, one a line, as the query of `control.catalog` asks:

    python -c 'from shardpool.control.catalog import *; print(BUILT_IN_QUERY)' | psql -XAt \
        | jq -c sort | sed 's/\],\[/],\n[/g' > tests/unit/query/built_in.json
"""

from __future__ import annotations

import json
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from shardpool.partitioning import Hash, Partitioning, Range
from shardpool.query.analysis.catalog import Catalog
from shardpool.query.analysis.catalog_reading import make_catalog, with_bodies, with_singles
from shardpool.topology import Endpoint, Keyspace, Shard, Topology, owner_ranges

SHARDS = ("s0", "s1", "s2", "s3")
BUCKETS = 16

_EU_US = tuple((region, number) for region in ("eu", "us") for number in range(4))

PARTITIONINGS: dict[str, Partitioning] = {
    "tenants": Hash(("bigint",), "murmur3", BUCKETS, tuple(range(12))),
    "notes": Hash(("text",), "murmur3", BUCKETS, ("ann", "bob", "cid", "dan")),
    "places": Hash(("text", "bigint"), "murmur3", BUCKETS, _EU_US),
    "events": Range(("date",), (date(2024, 1, 1), date(2025, 1, 1), date(2026, 1, 1), None)),
    "words": Range(("text",), ("g", "n", "t", None)),
}
_HASHED = tuple(SHARDS[bucket // (BUCKETS // 4)] for bucket in range(BUCKETS))
_OWNERS = {
    "tenants": _HASHED + SHARDS * 3,
    "notes": _HASHED + SHARDS,
    "places": _HASHED + SHARDS + SHARDS[::-1],
    "events": SHARDS,
    "words": SHARDS,
}
_TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "tenants": dict.fromkeys(("public.orders", "public.items", "public.customers"), ("tenant_id",))
    | {"sales.items": ("tenant_id",)},
    "notes": {"public.notes": ("author",)},
    "places": {"public.places": ("region", "id")},
    "events": {"public.events": ("day",)},
    "words": {"public.words": ("word",), "public.tokens": ("word",)},
}
REFERENCES = ("public.countries", "public.currencies", "sales.orders")
SINGLES = {"public.audit_log": "s0", "public.jobs": "s1"}

# Table, then a line for each column: name, type, `!` when it is NOT NULL, `"C"` when its texts are in that collation,
# and `= ` with its default. The first line names the primary key.
SCHEMA = """
public.orders (tenant_id, id)
  tenant_id bigint !
  id bigint !
  customer_id integer
  total numeric(12,2)
  qty integer
  small smallint
  weight double precision
  note text
  code text "C"
  placed timestamp with time zone
  paid boolean
public.items (tenant_id, order_id, line)
  tenant_id bigint !
  order_id bigint !
  line integer !
  sku text
  price numeric
public.customers (tenant_id, id)
  tenant_id bigint !
  id bigint !
  name text
  country text
  born date
sales.items (tenant_id, line)
  tenant_id bigint !
  line integer !
  sku text
public.notes (author, n)
  author text !
  n integer !
  body text
  stars integer
public.places (region, id)
  region text !
  id bigint !
  name text
  visits integer
public.events (day, n)
  day date !
  n integer !
  kind text "C"
  value double precision
public.words (word)
  word text !
  n integer
public.tokens (word)
  word text ! "C"
  n integer
public.countries (code)
  code text !
  name text
  added timestamp with time zone = now()
public.currencies (code)
  code text !
  rate numeric
sales.orders ()
  x integer
  y text
public.audit_log (id)
  id bigint ! = nextval('audit_log_id_seq'::regclass)
  what text
public.jobs (id)
  id bigint !
  code text
  done boolean
"""

# Functions, types and operators of others: name, kind, volatility, whether it gives a set, language, and what
# tells it from PostgreSQL's own of the name, as extensions have them.
_FUNCTIONS = [
    ["twice", "f", "i", False, "sql", None],
    ["spent", "f", "s", False, "sql", None],
    ["noticed", "f", "v", False, "plpgsql", None],
    ["median", "a", "i", False, "internal", None],
    ["bit_xor", "a", "i", False, "internal", ["mask"]],
    ["gen_random_uuid", "f", "v", False, "c", True],
    ["mood", "t", "i", False, "internal", None],
]
_BODIES = [
    ["spent", "sql", "select sum(qty) from orders", "s"],
    ["noticed", "plpgsql", "begin raise notice '%', $1; return $1; end", "v"],
    ["gen_random_uuid", "c", "pg_random_uuid", "v"],
]
_OPERATORS = [["<%>", "s", "sql", None], ["<#>", "i", "sql", None], ["^", "s", "c", ["text", "text"]]]
_SETTINGS = {"TimeZone": "UTC", "server_encoding": "UTF8", "client_encoding": "UTF8", "search_path": '"$user", public'}
_DATABASE = {"datcollate": "en_US.UTF-8", "datctype": "en_US.UTF-8", "datlocprovider": "c", "datlocale": None}
_TYPES_WITH_COLLATION = ("text", "character varying")


def topology() -> Topology:
    """Four shards; see the module."""
    shards = {name: Shard(name, Endpoint("primary", "primary", (("host", name),))) for name in SHARDS}
    keyspaces = {
        name: Keyspace(name, partitioning, owner_ranges(_OWNERS[name], [1] * len(_OWNERS[name])), _TABLES[name])
        for name, partitioning in PARTITIONINGS.items()
    }
    return Topology("shop", 1, shards, keyspaces, REFERENCES, SINGLES)


@cache
def catalog() -> Catalog:
    """What the shards have told, s0 and s1 of their single tables too."""
    built_in = json.loads((Path(__file__).parent / "built_in.json").read_text(encoding="utf-8"))
    fleet = topology()
    found = with_singles(make_catalog("s0", _told(), built_in, fleet), "s1", _told(), fleet)
    return with_bodies(found, {name for name, *_ in _BODIES}, _BODIES)


def _told() -> dict[str, Any]:
    """The answer of a shard to `CATALOG_QUERY`."""
    return {
        "tables": _tables(),
        "functions": _FUNCTIONS,
        "operators": _OPERATORS,
        "casts": [["character varying", "text"], ["name", "text"]],
        "settings": _SETTINGS,
        "database": _DATABASE,
    }


def _tables() -> dict[str, Any]:
    found: dict[str, Any] = {}
    columns: list[Any] = []
    for line in SCHEMA.strip().splitlines():
        if not line.startswith(" "):
            name, key = line.rstrip(")").split(" (")
            columns = []
            found[name] = {
                "kind": "r",
                "rls": False,
                "visible": name.startswith("public."),
                "columns": columns,
                "key": [part for part in key.split(", ") if part],
            }
        else:
            columns.append(_column(line.strip()))
    return found


def _column(line: str) -> list[Any]:
    """Name, type, NOT NULL, collation, whether that is deterministic, default."""
    line, _, default = line.partition(" = ")
    collation = "C" if line.endswith(' "C"') else None
    words = line.removesuffix(' "C"')
    name, type_ = words.removesuffix(" !").split(" ", 1)
    if collation is None and type_ in _TYPES_WITH_COLLATION:
        collation = "default"
    return [name, type_, words.endswith(" !"), collation, True, default or None]
