"""The eight tables of TPC-H, and the ways they are dealt out to the shards."""

from __future__ import annotations

# No foreign keys: those between keyspaces could not be held. The primary keys are those of the specification; each
# holds the partition key of its table.
TABLES: dict[str, str] = {
    "region": """
        create table region (
            r_regionkey bigint primary key,
            r_name char(25) not null,
            r_comment varchar(152) not null
        )""",
    "nation": """
        create table nation (
            n_nationkey bigint primary key,
            n_name char(25) not null,
            n_regionkey bigint not null,
            n_comment varchar(152) not null
        )""",
    "supplier": """
        create table supplier (
            s_suppkey bigint primary key,
            s_name char(25) not null,
            s_address varchar(40) not null,
            s_nationkey bigint not null,
            s_phone char(15) not null,
            s_acctbal numeric(15,2) not null,
            s_comment varchar(101) not null
        )""",
    "customer": """
        create table customer (
            c_custkey bigint primary key,
            c_name varchar(25) not null,
            c_address varchar(40) not null,
            c_nationkey bigint not null,
            c_phone char(15) not null,
            c_acctbal numeric(15,2) not null,
            c_mktsegment char(10) not null,
            c_comment varchar(117) not null
        )""",
    "part": """
        create table part (
            p_partkey bigint primary key,
            p_name varchar(55) not null,
            p_mfgr char(25) not null,
            p_brand char(10) not null,
            p_type varchar(25) not null,
            p_size integer not null,
            p_container char(10) not null,
            p_retailprice numeric(15,2) not null,
            p_comment varchar(23) not null
        )""",
    "partsupp": """
        create table partsupp (
            ps_partkey bigint not null,
            ps_suppkey bigint not null,
            ps_availqty integer not null,
            ps_supplycost numeric(15,2) not null,
            ps_comment varchar(199) not null,
            primary key (ps_partkey, ps_suppkey)
        )""",
    "orders": """
        create table orders (
            o_orderkey bigint primary key,
            o_custkey bigint not null,
            o_orderstatus char(1) not null,
            o_totalprice numeric(15,2) not null,
            o_orderdate date not null,
            o_orderpriority char(15) not null,
            o_clerk char(15) not null,
            o_shippriority integer not null,
            o_comment varchar(79) not null
        )""",
    "lineitem": """
        create table lineitem (
            l_orderkey bigint not null,
            l_partkey bigint not null,
            l_suppkey bigint not null,
            l_linenumber integer not null,
            l_quantity numeric(15,2) not null,
            l_extendedprice numeric(15,2) not null,
            l_discount numeric(15,2) not null,
            l_tax numeric(15,2) not null,
            l_returnflag char(1) not null,
            l_linestatus char(1) not null,
            l_shipdate date not null,
            l_commitdate date not null,
            l_receiptdate date not null,
            l_shipinstruct char(25) not null,
            l_shipmode char(10) not null,
            l_comment varchar(44) not null,
            primary key (l_orderkey, l_linenumber)
        )""",
}

DDL = ";\n".join(TABLES.values())

# `{owners}` stands for the buckets dealt out evenly to the shards.
_HASH = "key: bigint\n    hash: {function: murmur3, buckets: 4096, owners: {owners}}"

LAYOUTS: dict[str, str] = {
    # Orders and their lines together, all the rest everywhere.
    "colocated": f"""\
keyspaces:
  by_order:
    {_HASH}
    tables: {{orders: o_orderkey, lineitem: l_orderkey}}
reference_tables: [region, nation, supplier, customer, part, partsupp]
""",
    # Three groups: joins between them find no shard where both rows are.
    "groups": f"""\
keyspaces:
  by_order:
    {_HASH}
    tables: {{orders: o_orderkey, lineitem: l_orderkey}}
  by_customer:
    {_HASH}
    tables: {{customer: c_custkey}}
  by_part:
    {_HASH}
    tables: {{part: p_partkey, partsupp: ps_partkey}}
reference_tables: [region, nation, supplier]
""",
}

# The tables of which a shard holds a part only.
SHARDED: dict[str, frozenset[str]] = {
    "colocated": frozenset({"orders", "lineitem"}),
    "groups": frozenset({"orders", "lineitem", "customer", "part", "partsupp"}),
}

# On columns that point to another table, as the specification allows; made after the load.
INDEXES = """\
create index on supplier (s_nationkey);
create index on customer (c_nationkey);
create index on partsupp (ps_suppkey);
create index on orders (o_custkey);
create index on lineitem (l_partkey, l_suppkey);
create index on lineitem (l_suppkey)"""
