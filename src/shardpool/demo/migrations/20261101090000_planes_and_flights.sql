-- migrate:up
-- The tables of the demo are alike on every shard. Each primary key holds the partition key: uniqueness is kept per
-- shard, and equal keys are on one shard.

-- Keyspace tails: planes and their flights by tail number, so that a plane and all its flights are on one shard.
create table planes (
    tailnum      text primary key,
    year         smallint,
    type         text not null,
    manufacturer text not null,
    model        text not null,
    engines      smallint not null,
    seats        smallint not null,
    speed        smallint,
    engine       text not null
);

-- Times of day are hhmm in local time, delays and air_time are minutes, as in the source. NULL dep_time: cancelled.
create table flights (
    tailnum        text not null,       -- 'NONE' where the source has no tail number: a key column takes no NULL
    sched_dep      timestamptz not null,
    carrier        text not null,
    flight         smallint not null,
    origin         text not null,
    dest           text not null,
    day            date not null,
    sched_dep_time smallint not null,
    dep_time       smallint,
    dep_delay      smallint,
    sched_arr_time smallint not null,
    arr_time       smallint,
    arr_delay      smallint,
    air_time       smallint,
    distance       smallint not null,
    primary key (tailnum, sched_dep, carrier, flight, origin)
);

-- migrate:down
drop table flights;
drop table planes;
