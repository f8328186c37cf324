"""Sequences that number rows for the whole fleet: SQL for the shard whose sequences do."""

from __future__ import annotations

from .own_sql import qualified

# Up to a number of numbers of a sequence, of one that ends as many as it has left, and some at least: two parameters
# behind the name. What comes back is the lowest, the highest, how many, whether the sequence ascends; and all of them
# where they do not follow one another, since somebody else has drawn meanwhile.
# A number may only be used when no crash brings it back: its server has to have written it to disk. On one server the
# rows that have it would be lost with it, and here they are on another.
DRAW = qualified("""
select f.lowest, f.highest, f.count, f.step > 0,
       case when (f.highest - f.lowest) <> ((f.count - 1) * pg_catalog.abs(f.step))
            then pg_catalog.array_to_string(f.numbers, ',') end
from (
    select pg_catalog.min(n.number) as lowest, pg_catalog.max(n.number) as highest, pg_catalog.count(*) as count,
           pg_catalog.min(n.step) as step, pg_catalog.array_agg(n.number) as numbers
    from (
        select pg_catalog.nextval(w.name) as number, w.step
        from (
            select s.name, q.seqincrement as step,
                   case when pg_catalog.current_setting('synchronous_commit') = 'off'
                        then pg_catalog.set_config('synchronous_commit', 'local', true) end as flushed,
                   pg_catalog.div(
                       case when q.seqincrement > 0 then q.seqmax else q.seqmin end
                       - coalesce(pg_catalog.pg_sequence_last_value(s.name)::numeric, (q.seqstart - q.seqincrement)),
                       q.seqincrement) as left_over, q.seqcycle
            from (select %s::pg_catalog.regclass as name) s
            left join pg_catalog.pg_sequence q on q.seqrelid = s.name
            offset 0
        ) w
        cross join lateral pg_catalog.generate_series(
            1, greatest(least(%s, case when not w.seqcycle then w.left_over end), %s)::pg_catalog.int8) g
    ) n
) f
""")
