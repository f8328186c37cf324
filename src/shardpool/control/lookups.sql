-- What the triggers of a column run that is unique over the fleet: they collect what changes, for a transaction whose
-- router keeps the entries, and refuse it to all others. Arguments: the lookup's name, its column, the columns of the key.
--
-- For UPDATE there is a trigger for rows, with a condition: it costs nothing where the column stays, and one for the
-- statement would be told of all rows. A partitioned table needs that: a row that goes to another partition sets off none.
create or replace function shardpool.keep_lookup() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp set bytea_output = 'hex' as $body$
declare
  told text := current_setting('shardpool.lookups', true);
  names text[] := tg_argv[1:];
  gone_rows jsonb := '[]';
  new_rows jsonb := '[]';
begin
  if told = 'off' then
    return null;
  end if;
  if tg_op = 'TRUNCATE' then
    raise exception 'TRUNCATE of %, which has values that are unique over the fleet', tg_table_name
      using errcode = 'feature_not_supported', hint = 'Delete the rows: DELETE FROM …, by execute() of a router.';
  end if;
  if tg_level = 'ROW' then
    gone_rows := shardpool.lookup_entries(array[to_jsonb(old)], names);
    new_rows := shardpool.lookup_entries(array[to_jsonb(new)], names);
  else
    if tg_op in ('DELETE', 'UPDATE') then
      gone_rows := shardpool.lookup_entries(array(select to_jsonb(g) from gone g), names);
    end if;
    if tg_op in ('INSERT', 'UPDATE') then
      new_rows := shardpool.lookup_entries(array(select to_jsonb(c) from come c), names);
    end if;
  end if;
  if gone_rows = new_rows then
    return null;
  end if;
  if told is distinct from 'kept' then
    raise exception '% is unique over the fleet by a lookup, which this write would leave behind', tg_argv[0]
      using errcode = 'feature_not_supported',
        hint = 'Write with execute() of a router whose topology has the lookup, without key=…, or in transaction(). Who '
          'loads rows in another way says SET shardpool.lookups = ''off'', and runs then: shardpool lookup repair';
  end if;
  perform set_config('shardpool.lookup_changes', concat(
    current_setting('shardpool.lookup_changes', true),
    jsonb_build_array(tg_argv[0], gone_rows, new_rows)::text, E'\n'), true);
  return null;
end
$body$;

-- Of rows that have a value their values and keys; the first of the names is that of the column. Where one of the columns
-- is gone, or has another name by now, the write fails.
create or replace function shardpool.lookup_entries(found jsonb[], names text[]) returns jsonb language sql immutable
set search_path = pg_catalog, pg_temp as $body$
  select coalesce(jsonb_agg(
    (select jsonb_agg(r.row -> n.name order by n.place) from unnest(names) with ordinality n (name, place))), '[]')
  from unnest(found) r (row)
  where case when r.row ?& names then r.row ->> names[1] is not null
             else concat('a column of the lookup is missing: ', array_to_string(names, ', '))::boolean end
$body$;
