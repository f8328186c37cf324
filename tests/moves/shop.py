"""A fleet with all that can move: each kind of keyspace, tables that refer to each other, columns of all sorts."""

from __future__ import annotations

from typing import Any

from .fleet import Moves, connect

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash: {buckets: 64, owners: {s0: 0-31, s1: 32-63}}
    pinned: {1000: s0}
    tables: {accounts: tenant_id, orders: tenant_id, visits: tenant_id}
  days:
    key: date
    range: [{below: 2025-01-01, shard: s0}, {below: 2026-01-01, shard: s0}, {shard: s1}]
    tables: {readings: day}
  regions:
    key: text
    list: {s0: [de, fr], s1: [us]}
    default: s0
    tables: {stores: region}
  pairs:
    key: [bigint, text]
    hash: {buckets: 16, owners: {s0: 0-15}}
    tables: {pairs: [a, b]}
reference_tables: [countries]
single_tables: {audit: s0}
"""
SCHEMA = """\
create table countries (code text primary key);
create table accounts (
  tenant_id bigint primary key, "Näme" text, country text references countries,
  large bytea, upper_name text generated always as (upper("Näme")) stored);
create table orders (
  tenant_id bigint not null references accounts, id bigint generated always as identity,
  total numeric(12, 2), at timestamptz not null default now(), primary key (tenant_id, id));
create table visits (at date not null, tenant_id bigint not null, page text, primary key (tenant_id, at))
  partition by range (at);
create table visits_old partition of visits for values from (minvalue) to ('2025-01-01');
create table visits_new partition of visits for values from ('2025-01-01') to (maxvalue);
create table readings (day date not null, n int not null, value double precision, primary key (day, n));
create table stores (region text not null, name text not null, open boolean, primary key (region, name));
create table pairs (a bigint not null, b text not null, note jsonb, primary key (a, b));
create table audit (n int primary key, what text);
insert into countries values ('de'), ('us');
"""
FILL = """\
insert into accounts select id, 'Nåme ' || id, case id % 2 when 0 then 'de' else 'us' end,
  decode(repeat('00ff', 2000), 'hex')
  from generate_series(1, 1100) as id where shardpool.bucket_tenants(id) <@ {tenants};
insert into orders (tenant_id, total) select tenant_id, n * 1.5 from accounts, generate_series(1, 2) as n;
insert into visits select '2024-12-01'::date + n * 40, tenant_id, 'p' || n from accounts, generate_series(0, 2) as n;
insert into readings select '2024-01-01'::date + d, n, d / 7.0
  from generate_series(0, 1000) as d, generate_series(1, 2) as n
  where shardpool.bucket_days('2024-01-01'::date + d) <@ {days};
insert into stores select r, 'store ' || n, n % 2 = 0 from unnest(array['de', 'fr', 'us', 'nl', 'pl']) as r,
  generate_series(1, 20) as n where shardpool.bucket_regions(r) <@ {regions};
insert into pairs select a, b, jsonb_build_object('a', a) from generate_series(1, 200) as a,
  unnest(array['x', 'y']) as b where shardpool.bucket_pairs(a, b) <@ {pairs};
"""


def fill(moves: Moves) -> None:
    """Rows on the shards that own them."""
    from shardpool.control.buckets import owned_multirange

    topology = moves.topology
    for shard in topology.shards:
        owned = {name: owned_multirange(space, shard) for name, space in topology.keyspaces.items()}
        with connect(topology, shard) as conn:
            conn.execute(FILL.format(**owned))
            if topology.single_tables["public.audit"] == shard:
                conn.execute("insert into audit select n, 'w' || n from generate_series(1, 50) as n")


def sums(moves: Moves) -> dict[str, tuple[int, int]]:
    """Table → how many rows the fleet has of it, and the sum of their hashes: wherever they are, each once."""
    topology = moves.topology
    found: dict[str, tuple[int, int]] = {}
    for shard in topology.shards:
        with connect(topology, shard) as conn:
            conn.execute("set timezone = 'UTC'")
            for space in topology.keyspaces.values():
                for table in space.tables:
                    line: Any = f"select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) from {table} as t"
                    rows, total = conn.execute(line).fetchone() or (0, 0)
                    there = found.get(table, (0, 0))
                    found[table] = (there[0] + rows, there[1] + int(total))
    return found
