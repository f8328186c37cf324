-- Everything a schema is made of, one row for each object: kind, name, the table that it belongs to, its definition.
-- Definitions are PostgreSQL's own texts, with search_path empty, so that they hold no oid and name every schema.
WITH mine AS (
  SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n
  WHERE n.nspname <> ALL (ARRAY['pg_catalog', 'information_schema', 'shardpool']) AND n.nspname NOT LIKE 'pg\_%'
), of_extension AS (
  SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
), rel AS (
  SELECT c.*, n.nspname, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class c JOIN mine n ON n.oid = c.relnamespace
  WHERE NOT EXISTS (SELECT FROM of_extension e WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid)
)
SELECT 'schema', pg_catalog.quote_ident(nspname), NULL, '' FROM mine
UNION ALL
SELECT 'extension', extname, NULL, extversion FROM pg_catalog.pg_extension
UNION ALL
SELECT CASE relkind WHEN 'f' THEN 'foreign table' ELSE 'table' END, name, name, pg_catalog.concat_ws(', ',
    CASE relpersistence WHEN 'u' THEN 'unlogged' END,
    CASE WHEN relkind = 'p' THEN 'partition by ' || pg_catalog.pg_get_partkeydef(oid) END,
    CASE WHEN relispartition THEN 'partition ' || pg_catalog.pg_get_expr(relpartbound, oid) END,
    CASE WHEN relrowsecurity THEN 'row security' END, CASE WHEN relforcerowsecurity THEN 'forced' END,
    pg_catalog.array_to_string(reloptions, ' '),
    CASE relreplident WHEN 'f' THEN 'replica identity full' WHEN 'n' THEN 'replica identity nothing'
      WHEN 'i' THEN (SELECT 'replica identity ' || i.indexrelid::regclass::text FROM pg_catalog.pg_index i
                     WHERE i.indrelid = rel.oid AND i.indisreplident) END,
    (SELECT 'inherits ' || pg_catalog.string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
     FROM pg_catalog.pg_inherits i WHERE i.inhrelid = rel.oid))
FROM rel WHERE relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'column', rel.name || '.' || pg_catalog.quote_ident(a.attname), rel.name, pg_catalog.concat_ws(' ',
    pg_catalog.format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attcollation <> t.typcollation THEN 'collate ' || a.attcollation::regcollation::text END,
    CASE WHEN a.attnotnull THEN 'not null' END,
    -- Of a column that is not null there is a constraint since version 18.
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = rel.oid AND k.contype = 'n'
                      AND k.conkey[1] = a.attnum AND NOT k.convalidated) THEN 'not valid' END,
    CASE a.attidentity WHEN 'a' THEN 'identity always' WHEN 'd' THEN 'identity by default' END,
    CASE a.attgenerated WHEN '' THEN 'default ' ELSE 'generated ' || a.attgenerated::text || ' ' END
      || pg_catalog.pg_get_expr(d.adbin, d.adrelid))
FROM rel JOIN pg_catalog.pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE rel.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'order of columns', rel.name, rel.name,
  pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
FROM rel JOIN pg_catalog.pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE rel.relkind IN ('r', 'p', 'f') GROUP BY rel.name
UNION ALL
SELECT 'constraint', rel.name || '.' || pg_catalog.quote_ident(k.conname), rel.name,
  pg_catalog.pg_get_constraintdef(k.oid)
FROM pg_catalog.pg_constraint k JOIN rel ON rel.oid = k.conrelid WHERE k.contype <> 'n'
UNION ALL
SELECT 'index', rel.name, pg_catalog.format('%I.%I', tn.nspname, t.relname),
  pg_catalog.pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid AND i.indisready THEN '' ELSE ' INVALID' END
FROM pg_catalog.pg_index i JOIN rel ON rel.oid = i.indexrelid
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
UNION ALL
SELECT 'sequence', rel.name, (
    SELECT d.refobjid::regclass::text FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = rel.oid AND d.deptype IN ('a', 'i')
      AND d.refclassid = 'pg_catalog.pg_class'::regclass LIMIT 1),
  pg_catalog.format('%s, start %s, increment %s, from %s to %s, cache %s%s', pg_catalog.format_type(s.seqtypid, NULL),
    s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, CASE WHEN s.seqcycle THEN ', cycle' ELSE '' END)
FROM pg_catalog.pg_sequence s JOIN rel ON rel.oid = s.seqrelid
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END, name, name, pg_catalog.concat_ws(' ',
  pg_catalog.array_to_string(reloptions, ' '), pg_catalog.pg_get_viewdef(oid))
FROM rel WHERE relkind IN ('v', 'm')
UNION ALL
SELECT 'trigger', rel.name || '.' || pg_catalog.quote_ident(g.tgname), rel.name,
  pg_catalog.pg_get_triggerdef(g.oid) || CASE g.tgenabled WHEN 'O' THEN '' ELSE ' enabled ' || g.tgenabled::text END
FROM pg_catalog.pg_trigger g JOIN rel ON rel.oid = g.tgrelid JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
-- Fences tell of the keys that each shard has.
WHERE NOT g.tgisinternal AND p.pronamespace IS DISTINCT FROM pg_catalog.to_regnamespace('shardpool')
UNION ALL
SELECT 'rule', rel.name || '.' || pg_catalog.quote_ident(r.rulename), rel.name, pg_catalog.pg_get_ruledef(r.oid)
FROM pg_catalog.pg_rewrite r JOIN rel ON rel.oid = r.ev_class WHERE r.rulename <> '_RETURN'
UNION ALL
SELECT 'policy', rel.name || '.' || pg_catalog.quote_ident(p.polname), rel.name, pg_catalog.concat_ws(' ',
  p.polcmd::text, CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
  (SELECT pg_catalog.string_agg(CASE WHEN r.role = 0 THEN 'public' ELSE r.role::regrole::text END, ', ' ORDER BY 1)
   FROM pg_catalog.unnest(p.polroles) r (role)),
  'using ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid),
  'check ' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_catalog.pg_policy p JOIN rel ON rel.oid = p.polrelid
UNION ALL
SELECT 'statistics', pg_catalog.format('%I.%I', mine.nspname, s.stxname), s.stxrelid::regclass::text,
  pg_catalog.pg_get_statisticsobjdef(s.oid)
FROM pg_catalog.pg_statistic_ext s JOIN mine ON mine.oid = s.stxnamespace
UNION ALL
SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END, p.oid::regprocedure::text,
  NULL, CASE p.prokind WHEN 'a' THEN (SELECT pg_catalog.concat_ws(' ', g.aggtransfn::text, g.aggfinalfn::text,
    pg_catalog.format_type(g.aggtranstype, NULL), g.agginitval)
    FROM pg_catalog.pg_aggregate g WHERE g.aggfnoid = p.oid) ELSE pg_catalog.pg_get_functiondef(p.oid) END
FROM pg_catalog.pg_proc p JOIN mine ON mine.oid = p.pronamespace
WHERE NOT EXISTS (SELECT FROM of_extension e WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = p.oid)
UNION ALL
SELECT CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite type' ELSE 'range type' END,
  pg_catalog.format_type(t.oid, NULL), NULL, CASE t.typtype
    WHEN 'e' THEN (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                   FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)
    WHEN 'd' THEN pg_catalog.concat_ws(' ', pg_catalog.format_type(t.typbasetype, t.typtypmod),
                   CASE WHEN t.typnotnull THEN 'not null' END, 'default ' || t.typdefault,
                   (SELECT pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname)
                    FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype <> 'n'))
    WHEN 'c' THEN (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname) || ' ' ||
                     pg_catalog.format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
    ELSE (SELECT pg_catalog.format_type(r.rngsubtype, NULL) FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) END
FROM pg_catalog.pg_type t JOIN mine ON mine.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND c.relkind = 'c'))
  AND NOT EXISTS (SELECT FROM of_extension e WHERE e.classid = 'pg_catalog.pg_type'::regclass AND e.objid = t.oid)
UNION ALL
SELECT 'collation', pg_catalog.format('%I.%I', mine.nspname, c.collname), NULL, pg_catalog.concat_ws(' ', c.collprovider,
  -- The column has had three names.
  coalesce(pg_catalog.to_jsonb(c) ->> 'colllocale', pg_catalog.to_jsonb(c) ->> 'colliculocale', c.collcollate),
  c.collctype, pg_catalog.to_jsonb(c) ->> 'collicurules',
  CASE WHEN c.collisdeterministic THEN '' ELSE 'nondeterministic' END)
FROM pg_catalog.pg_collation c JOIN mine ON mine.oid = c.collnamespace
WHERE NOT EXISTS (SELECT FROM of_extension e WHERE e.classid = 'pg_catalog.pg_collation'::regclass AND e.objid = c.oid)
UNION ALL
SELECT 'operator', o.oid::regoperator::text, NULL, pg_catalog.concat_ws(' ', pg_catalog.format_type(o.oprresult, NULL),
  o.oprcode::text, 'commutator ' || nullif(o.oprcom, 0)::regoperator::text,
  'negator ' || nullif(o.oprnegate, 0)::regoperator::text, CASE WHEN o.oprcanmerge THEN 'merges' END,
  CASE WHEN o.oprcanhash THEN 'hashes' END)
FROM pg_catalog.pg_operator o JOIN mine ON mine.oid = o.oprnamespace
WHERE NOT EXISTS (SELECT FROM of_extension e WHERE e.classid = 'pg_catalog.pg_operator'::regclass AND e.objid = o.oid)
UNION ALL
SELECT 'cast', pg_catalog.format('%s as %s', pg_catalog.format_type(c.castsource, NULL),
    pg_catalog.format_type(c.casttarget, NULL)), NULL,
  pg_catalog.concat_ws(' ', nullif(c.castfunc, 0)::regprocedure::text, c.castcontext::text, c.castmethod::text)
FROM pg_catalog.pg_cast c
-- Those that initdb has made have lower numbers.
WHERE c.oid >= 16384
  AND NOT EXISTS (SELECT FROM of_extension e WHERE e.classid = 'pg_catalog.pg_cast'::regclass AND e.objid = c.oid)
UNION ALL
SELECT 'text search configuration', pg_catalog.format('%I.%I', mine.nspname, c.cfgname), NULL,
  (SELECT pg_catalog.string_agg(k.alias || ' ' || m.mapdict::regdictionary::text, ', '
                                ORDER BY m.maptokentype, m.mapseqno)
   FROM pg_catalog.pg_ts_config_map m JOIN pg_catalog.ts_token_type(c.cfgparser) k ON k.tokid = m.maptokentype
   WHERE m.mapcfg = c.oid)
FROM pg_catalog.pg_ts_config c JOIN mine ON mine.oid = c.cfgnamespace
WHERE NOT EXISTS (SELECT FROM of_extension e WHERE e.classid = 'pg_catalog.pg_ts_config'::regclass AND e.objid = c.oid)
UNION ALL
SELECT 'publication', pg_catalog.quote_ident(p.pubname), NULL, pg_catalog.concat_ws(' ',
  CASE WHEN p.puballtables THEN 'all tables' END, CASE WHEN p.pubinsert THEN 'insert' END,
  CASE WHEN p.pubupdate THEN 'update' END, CASE WHEN p.pubdelete THEN 'delete' END,
  CASE WHEN p.pubtruncate THEN 'truncate' END, CASE WHEN p.pubviaroot THEN 'by root' END)
FROM pg_catalog.pg_publication p
UNION ALL
-- Its tables one by one, so that a single table is left out as it is elsewhere. Columns and filters are known since
-- version 15: a name that the inner table does not have means the one beside it.
SELECT 'table of publication', rel.name || ' in ' || pg_catalog.quote_ident(p.pubname), rel.name,
  pg_catalog.concat_ws(' ',
    (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
     FROM pg_catalog.pg_attribute a WHERE a.attrelid = rel.oid AND a.attnum = ANY (d.attrs)),
    'where ' || pg_catalog.pg_get_expr(d.qual, rel.oid))
FROM pg_catalog.pg_publication_rel r JOIN rel ON rel.oid = r.prrelid
JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
CROSS JOIN (SELECT NULL::int2vector AS prattrs, NULL::pg_node_tree AS prqual) beside
CROSS JOIN LATERAL (SELECT prattrs AS attrs, prqual AS qual
                    FROM (SELECT * FROM pg_catalog.pg_publication_rel) e WHERE e.oid = r.oid) d
