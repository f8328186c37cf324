-- migrate:up
-- shard: only=table:load_log
-- A single table: on one shard, of which the topology says the name.
create table load_log (
    table_name text primary key,
    rows       bigint not null,
    seconds    double precision not null,
    loaded_at  timestamptz not null default now()
);

-- migrate:down
drop table load_log;
