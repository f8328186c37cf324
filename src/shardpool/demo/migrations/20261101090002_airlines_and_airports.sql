-- migrate:up
-- Reference tables: a full copy on every shard.
create table airlines (
    carrier text primary key,
    name    text not null
);

create table airports (
    faa   text primary key,
    name  text not null,
    lat   double precision not null,
    lon   double precision not null,
    alt   integer not null,
    tz    smallint not null,
    dst   text not null,
    tzone text
);

-- migrate:down
drop table airports;
drop table airlines;
