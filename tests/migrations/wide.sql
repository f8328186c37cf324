-- migrate:up
-- One of each kind of object.
create extension pg_trgm;
create schema lib;
create type mood as enum ('good', 'bad', 'so, so');
create domain positive as int default 1 not null constraint positive check (value > 0);
create domain "Odd Name" as text collate "C";
create type pair as (a int, b text);
create type floats as range (subtype = float8, subtype_diff = float8mi);
create collation plain (provider = libc, locale = 'C');
create sequence numbers start 100 increment 5 cache 10;
create text search configuration mine (copy = pg_catalog.english);
create table orders (
  tenant_id bigint not null, id bigint generated always as identity (start 1000), m mood default 'good', p positive,
  total numeric(10, 2), tax numeric generated always as (total * 0.19) stored, name text collate plain,
  nr bigint default nextval('numbers'), tags text[] default '{}', "Mixed Case" int, pr pair, fl floats,
  primary key (tenant_id, id), unique (tenant_id, nr)
);
alter table orders add constraint total check (total >= 0) not valid;
alter table orders alter column name set statistics 500, alter column tags set storage external;
alter table orders set (fillfactor = 70), replica identity full, cluster on orders_pkey, enable row level security;
create policy own on orders as restrictive for select using (tenant_id = current_setting('app.tenant')::bigint);
comment on table orders is 'all; orders';
comment on column orders.total is 'it''s money';
create index on orders using gin (name gin_trgm_ops) where name is not null;
create index on orders (lower(name), tenant_id desc nulls last) include (total);
create statistics together (dependencies, ndistinct) on tenant_id, nr from orders;
create table items (
  tenant_id bigint, order_id bigint, n smallserial,
  foreign key (tenant_id, order_id) references orders on delete cascade deferrable initially deferred
);
create table events (tenant_id bigint, at timestamptz, what jsonb, primary key (tenant_id, at)) partition by range (at);
create table events_2026 partition of events for values from ('2026-01-01') to ('2027-01-01')
  partition by hash (tenant_id);
create table events_2026_0 partition of events_2026 for values with (modulus 2, remainder 0);
create table events_2026_1 partition of events_2026 for values with (modulus 2, remainder 1);
create table events_rest partition of events default;
create index events_what on events using gin (what);
create table parent (a int);
create table child (b int) inherits (parent);
create unlogged table scratch (x int);
create table countries (id serial primary key, code text unique, name text);
create table audit_log (id serial primary key, nr bigint generated always as identity, what text);
create function lib.touch() returns trigger language plpgsql set search_path = lib, public as
  $f$ begin new.total := coalesce(new.total, 0); return new; end $f$;
create trigger touch before insert or update of total on orders for each row when (new.total is null)
  execute function lib.touch();
create trigger quiet after insert on countries referencing new table as fresh for each statement
  execute function lib.touch();
alter table countries disable trigger quiet;
create procedure lib.more(inout x int) language plpgsql as $$ begin x := x + 1; end $$;
create function lib.added(a int, b int default 3) returns int language sql immutable parallel safe as 'select a + b';
comment on function lib.added(int, int) is 'adds';
create aggregate lib.total (int) (sfunc = int4pl, stype = int, initcond = '0');
create operator lib.=== (leftarg = int, rightarg = int, function = int4eq, commutator = operator(lib.===));
create function lib.of_mood(mood) returns int language sql as 'select 1';
create cast (mood as int) with function lib.of_mood(mood) as assignment;
create view large with (security_barrier) as select id, total from orders where total > 0 with local check option;
create view larger as select * from large;
create rule nothing as on insert to larger do instead nothing;
create materialized view codes as select code from countries;
create materialized view all_codes as select count(*) from codes;
create materialized view empty as select 1 with no data;
create unique index codes_code on codes (code);
create publication changes for table orders, countries;
grant select on orders to public;
alter default privileges in schema lib grant select on tables to public;
