-- What every shard carries, whatever its keyspaces: installed again and again by `shardpool init`, in one transaction.
-- The twin of keys.py and hashing.py: a value has the same bucket here and there.

DO $check$
BEGIN
  IF pg_catalog.current_setting('server_version_num')::int < 140000 THEN
    RAISE EXCEPTION 'PostgreSQL % is too old', pg_catalog.current_setting('server_version')
      USING ERRCODE = 'feature_not_supported', HINT = 'shardpool needs PostgreSQL 14 or later.';
  END IF;
  IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
    RAISE EXCEPTION 'the encoding of this database is %, not UTF8', pg_catalog.current_setting('server_encoding')
      USING ERRCODE = 'feature_not_supported', HINT = 'Create the database with ENCODING ''UTF8''.';
  END IF;
END
$check$;

CREATE SCHEMA IF NOT EXISTS shardpool;

CREATE TABLE IF NOT EXISTS shardpool.meta (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  version integer NOT NULL,
  installed_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE shardpool.meta IS 'the version of this schema, and the epoch of the topology in force';

-- Later additions to version 1; what reads them does without them where they are not there yet.
ALTER TABLE shardpool.meta ADD COLUMN IF NOT EXISTS epoch bigint NOT NULL DEFAULT 0;
ALTER TABLE shardpool.meta ADD COLUMN IF NOT EXISTS works_with integer[] NOT NULL DEFAULT '{1}';
COMMENT ON COLUMN shardpool.meta.works_with IS 'the versions of the package that can use this schema';
ALTER TABLE shardpool.meta ADD COLUMN IF NOT EXISTS tables jsonb;
COMMENT ON COLUMN shardpool.meta.tables IS 'by table where routers may have its rows: of others nothing is known';

DO $check$
BEGIN
  IF EXISTS (SELECT FROM shardpool.meta WHERE version > 1) THEN
    RAISE EXCEPTION 'the schema shardpool on this server is newer than this shardpool'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Upgrade the shardpool package.';
  END IF;
END
$check$;

INSERT INTO shardpool.meta (version) VALUES (1) ON CONFLICT (singleton) DO UPDATE SET version = 1
  WHERE meta.version <> 1;

CREATE TABLE IF NOT EXISTS shardpool.self (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  fleet text NOT NULL,
  shard text NOT NULL,
  installed_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE shardpool.self IS 'which shard of which fleet this database is';
ALTER TABLE shardpool.self ADD COLUMN IF NOT EXISTS also text;
COMMENT ON COLUMN shardpool.self.also IS 'its other name while it is renamed, and its old one afterwards';

CREATE TABLE IF NOT EXISTS shardpool.hash_contract (
  keyspace text PRIMARY KEY,
  contract jsonb NOT NULL
);
COMMENT ON TABLE shardpool.hash_contract IS 'how keys become buckets, with test vectors; never changed but for the vectors';
ALTER TABLE shardpool.hash_contract ADD COLUMN IF NOT EXISTS maps jsonb;
COMMENT ON COLUMN shardpool.hash_contract.maps IS 'digests of the maps from key to shard that routers may have, and of '
  'which epoch the owners were then; of other owners by now they say nothing';

CREATE TABLE IF NOT EXISTS shardpool.owner (
  keyspace text NOT NULL,
  first_bucket integer NOT NULL CHECK (first_bucket >= 0),
  last_bucket integer NOT NULL,
  shard text NOT NULL,
  epoch bigint NOT NULL,
  PRIMARY KEY (keyspace, first_bucket),
  CHECK (first_bucket <= last_bucket)
);
COMMENT ON TABLE shardpool.owner IS 'who owns which buckets since which epoch: the authority; no row is no owner';

CREATE TABLE IF NOT EXISTS shardpool.history (
  epoch bigint PRIMARY KEY,
  digest text NOT NULL,
  change text NOT NULL,
  author text NOT NULL,
  login text NOT NULL DEFAULT session_user,
  begun_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  finished_at timestamptz,
  outcome text NOT NULL DEFAULT 'begun' CHECK (outcome IN ('begun', 'done', 'given up')),
  plan jsonb NOT NULL
);
COMMENT ON TABLE shardpool.history IS 'who changed the topology, when and what; digest is SHA-256 of the new file';
COMMENT ON COLUMN shardpool.history.plan IS 'what end_edit does: owners by keyspace that change, shards that are renamed';

-- ---------------------------------------------------------------------------------------------------------------------
-- murmur3 x86_32, seed 0, as an unsigned number in a bigint. The state stays below 2^32; a factor is written as a signed
-- 32-bit number, so that no product overflows, and the mask gives the residue that unsigned arithmetic would.
-- Its operators get their schema when this is installed: see own_sql.computing.

CREATE OR REPLACE FUNCTION shardpool.murmur3(key bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 20 AS $body$
DECLARE
  k bigint := ((key & 4294967295) * -862048943) & 4294967295;
  h bigint := ((((k << 15) | (k >> 17)) & 4294967295) * 461845907) & 4294967295;
BEGIN
  -- Two blocks, unrolled: 0.6 µs on PostgreSQL 18, where four blocks by the loop below take 1.7.
  h := (((((h << 13) | (h >> 19)) & 4294967295) * 5) + 3864292196) & 4294967295;
  k := (((key >> 32) & 4294967295) * -862048943) & 4294967295;
  h := h # (((((k << 15) | (k >> 17)) & 4294967295) * 461845907) & 4294967295);
  h := ((((((h << 13) | (h >> 19)) & 4294967295) * 5) + 3864292196) & 4294967295) # 8;
  h := ((h # (h >> 16)) * -2048144789) & 4294967295;
  h := ((h # (h >> 13)) * -1028477387) & 4294967295;
  RETURN h # (h >> 16);
END
$body$;

CREATE OR REPLACE FUNCTION shardpool.murmur3(key bytea) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 60 AS $body$
DECLARE
  size integer := pg_catalog.octet_length(key);
  h bigint := 0;
  k bigint;
BEGIN
  FOR i IN 0 .. size / 4 * 4 - 1 BY 4 LOOP
    k := ((pg_catalog.get_byte(key, i) | (pg_catalog.get_byte(key, i + 1) << 8) | (pg_catalog.get_byte(key, i + 2) << 16)
      | (pg_catalog.get_byte(key, i + 3) << 24)) & 4294967295) * -862048943 & 4294967295;
    h := h # (((((k << 15) | (k >> 17)) & 4294967295) * 461845907) & 4294967295);
    h := (((((h << 13) | (h >> 19)) & 4294967295) * 5) + 3864292196) & 4294967295;
  END LOOP;
  IF size % 4 > 0 THEN
    k := 0;
    FOR i IN REVERSE size - 1 .. size / 4 * 4 LOOP
      k := (k << 8) | pg_catalog.get_byte(key, i);
    END LOOP;
    k := (k * -862048943) & 4294967295;
    h := h # (((((k << 15) | (k >> 17)) & 4294967295) * 461845907) & 4294967295);
  END IF;
  h := h # size;
  h := ((h # (h >> 16)) * -2048144789) & 4294967295;
  h := ((h # (h >> 13)) * -1028477387) & 4294967295;
  RETURN h # (h >> 16);
END
$body$;

-- ---------------------------------------------------------------------------------------------------------------------
-- The key encoding, version 1.

CREATE OR REPLACE FUNCTION shardpool.days(key date) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (key - date '2000-01-01')::bigint;

CREATE OR REPLACE FUNCTION shardpool.microseconds(key timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (EXTRACT(epoch FROM key - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint;

-- Little-endian: the bytes are swapped by arithmetic, because int8send writes them big-endian.
CREATE OR REPLACE FUNCTION shardpool.encode_key(key bigint) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.int8send(
  ((key & 255) << 56) | ((key & 65280) << 40) | ((key & 16711680) << 24) | ((key & 4278190080) << 8)
  | ((key >> 8) & 4278190080) | ((key >> 24) & 16711680) | ((key >> 40) & 65280) | ((key >> 56) & 255));

-- plpgsql, because convert_to is only STABLE; in a database whose encoding is UTF8 its answer never changes.
CREATE OR REPLACE FUNCTION shardpool.encode_key(key text) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $body$
BEGIN
  RETURN pg_catalog.convert_to(key, 'UTF8');
END
$body$;

CREATE OR REPLACE FUNCTION shardpool.encode_key(key uuid) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.uuid_send(key);

CREATE OR REPLACE FUNCTION shardpool.encode_key(key bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN key;

CREATE OR REPLACE FUNCTION shardpool.encode_key(key date) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN shardpool.encode_key(shardpool.days(key));

CREATE OR REPLACE FUNCTION shardpool.encode_key(key timestamptz) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN shardpool.encode_key(shardpool.microseconds(key));

-- A part of a composite key: its length in 4 bytes, little-endian, then its bytes. plpgsql, because SQL is not inlined
-- where its argument is not cheap, and costs 3 µs more then.
CREATE OR REPLACE FUNCTION shardpool.key_part(encoded bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $body$
BEGIN
  RETURN pg_catalog.substring(shardpool.encode_key(pg_catalog.octet_length(encoded)::bigint), 1, 4) || encoded;
END
$body$;

-- ---------------------------------------------------------------------------------------------------------------------
-- The partition hash of PARTITION BY HASH, from the server's own hash functions.

-- hash_combine64 of PostgreSQL's common/hashfn.h with its constant 5305509591434766563: a # (b + constant + (a << 54) + (a >> 7)),
-- unsigned. A sum of bigints raises where it should wrap, so it is taken by halves; a shift wraps.
CREATE OR REPLACE FUNCTION shardpool.combine_hashes(a bigint, b bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 20 AS $body$
DECLARE
  shifted bigint := (a >> 7) & 144115188075855871;
  low bigint := (b & 4294967295) + 367372515 + (shifted & 4294967295);
  high bigint := (b >> 32) + 1235285213 + ((a << 54) >> 32) + (shifted >> 32) + (low >> 32);
BEGIN
  RETURN a # ((high << 32) | (low & 4294967295));
END
$body$;

-- The remainder of the number read as unsigned, by halves.
CREATE OR REPLACE FUNCTION shardpool.unsigned_remainder(hash bigint, buckets integer) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 10 AS $body$
BEGIN
  RETURN ((((hash >> 32) & 4294967295) % buckets) * 4294967296 + (hash & 4294967295)) % buckets;
END
$body$;

-- ---------------------------------------------------------------------------------------------------------------------
-- What `shardpool init` calls with the topology's values. Each refuses what could put rows under a wrong owner.

CREATE OR REPLACE FUNCTION shardpool.install_self(of_fleet text, as_shard text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  here record;
BEGIN
  SELECT fleet, shard, also INTO here FROM shardpool.self;
  IF NOT FOUND THEN
    INSERT INTO shardpool.self (fleet, shard) VALUES (of_fleet, as_shard);
  ELSIF here.fleet = of_fleet AND here.also = as_shard THEN
    NULL; -- renamed to it or from it: the edit itself says when
  ELSIF (here.fleet, here.shard) <> (of_fleet, as_shard) THEN
    RAISE EXCEPTION 'this database is shard "%" of fleet "%", not shard "%" of fleet "%"',
      here.shard, here.fleet, as_shard, of_fleet
      USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Two shards may have each other''s address in the topology. '
          'If this database is a copy that becomes another shard, first: DELETE FROM shardpool.self';
  END IF;
END
$body$;

CREATE OR REPLACE FUNCTION shardpool.install_contract(of_keyspace text, new_contract jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  old_contract jsonb;
BEGIN
  SELECT contract INTO old_contract FROM shardpool.hash_contract WHERE keyspace = of_keyspace;
  IF old_contract - 'vectors' <> new_contract - 'vectors' THEN
    RAISE EXCEPTION 'keyspace "%" is placed on this shard in another way: % here, % in the topology',
      of_keyspace, old_contract - 'vectors', new_contract - 'vectors'
      USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'How keys become buckets never changes once rows are placed: set the topology back, or give the '
          'new way a keyspace of its own and move the rows.';
  END IF;
  INSERT INTO shardpool.hash_contract (keyspace, contract) VALUES (of_keyspace, new_contract)
    ON CONFLICT (keyspace) DO UPDATE SET contract = excluded.contract
    WHERE hash_contract.contract <> excluded.contract;
END
$body$;

-- An entry says since when a bucket is where it is: a bucket that stays with its shard keeps its epoch, whatever the
-- topology's. What a bucket is may change with pins, bounds and listed keys, so those keep it only while the keyspace's
-- bucket function is what it was; hash buckets are the same for ever. Nothing is written when nothing changes.
CREATE OR REPLACE FUNCTION shardpool.install_owners(of_keyspace text, at_epoch bigint, owners jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  known_epoch bigint;
  topology_epoch bigint;
  carried jsonb;
BEGIN
  SELECT pg_catalog.max(epoch) INTO known_epoch FROM shardpool.owner WHERE keyspace = of_keyspace;
  IF known_epoch > at_epoch THEN
    RAISE EXCEPTION 'the owners of keyspace "%" on this shard are of epoch %, the topology is of epoch %',
      of_keyspace, known_epoch, at_epoch
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Use the newer topology file.';
  END IF;
  IF known_epoch = at_epoch THEN
    PERFORM shardpool.check_same_owners(of_keyspace, at_epoch, owners);
    RETURN;
  END IF;
  carried := shardpool.carry_epochs(of_keyspace, owners, shardpool.same_buckets(of_keyspace));
  IF carried = (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('first_bucket', first_bucket,
      'last_bucket', last_bucket, 'shard', shard, 'epoch', epoch) ORDER BY first_bucket)
    FROM shardpool.owner WHERE keyspace = of_keyspace)
  THEN
    RETURN;
  END IF;
  SELECT epoch INTO topology_epoch FROM shardpool.meta;
  IF topology_epoch > at_epoch THEN
    RAISE EXCEPTION 'this topology gives keyspace "%" other owners than this shard has, and is of epoch %; the fleet is '
      'at epoch %', of_keyspace, at_epoch, topology_epoch
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Use the newer topology file.';
  END IF;
  DELETE FROM shardpool.owner WHERE keyspace = of_keyspace;
  INSERT INTO shardpool.owner (keyspace, first_bucket, last_bucket, shard, epoch)
    SELECT of_keyspace, entry.first_bucket, entry.last_bucket, entry.shard, entry.epoch
    FROM pg_catalog.jsonb_to_recordset(carried)
      AS entry (first_bucket integer, last_bucket integer, shard text, epoch bigint);
END
$body$;

-- The digests that were written for the owners as they are now, or NULL: of those of another version nothing is known.
CREATE OR REPLACE FUNCTION shardpool.maps_in_force(of_keyspace text) RETURNS jsonb
LANGUAGE sql STABLE
RETURN (SELECT maps->'digests' FROM shardpool.hash_contract WHERE keyspace = of_keyspace
  AND maps->'epoch' = pg_catalog.to_jsonb((SELECT coalesce(pg_catalog.max(epoch), 0) FROM shardpool.owner
    WHERE keyspace = of_keyspace)));

-- Routers with these maps are let in, and only they, or those with the maps of before as well.
CREATE OR REPLACE FUNCTION shardpool.accept_maps(of_keyspace text, digests jsonb, only_these boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  here jsonb := CASE WHEN only_these THEN '[]' ELSE coalesce(shardpool.maps_in_force(of_keyspace), '[]') END;
  owners_epoch bigint := coalesce((SELECT pg_catalog.max(epoch) FROM shardpool.owner WHERE keyspace = of_keyspace), 0);
BEGIN
  UPDATE shardpool.hash_contract SET maps = pg_catalog.jsonb_build_object('epoch', owners_epoch, 'digests',
      (SELECT pg_catalog.jsonb_agg(DISTINCT digest) FROM pg_catalog.jsonb_array_elements(here || digests) AS digest))
    WHERE keyspace = of_keyspace;
END
$body$;

-- After the owners: the map is in force as of this epoch. Another map comes with an epoch of its own.
CREATE OR REPLACE FUNCTION shardpool.install_map(of_keyspace text, at_epoch bigint, digest text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  here jsonb := shardpool.maps_in_force(of_keyspace);
  -- As it was before this transaction raised it for another keyspace.
  meta_epoch bigint := nullif(pg_catalog.current_setting('shardpool.epoch_before', true), '');
  known_epoch bigint;
BEGIN
  IF here ? digest THEN
    RETURN;
  END IF;
  IF meta_epoch IS NULL THEN
    SELECT epoch INTO meta_epoch FROM shardpool.meta;
    PERFORM pg_catalog.set_config('shardpool.epoch_before', meta_epoch::text, true);
  END IF;
  known_epoch := greatest(meta_epoch, (SELECT pg_catalog.max(epoch) FROM shardpool.owner WHERE keyspace = of_keyspace));
  IF known_epoch = at_epoch AND here IS NOT NULL THEN
    RAISE EXCEPTION 'keyspace "%" has other pins, bounds or listed keys on this shard than in the topology, both of '
      'epoch %', of_keyspace, at_epoch
      USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = pg_catalog.format('Map %s there, %s here.',
          here->>0, digest), HINT = 'Raise the epoch with every change of the topology.';
  END IF;
  PERFORM shardpool.accept_maps(of_keyspace, pg_catalog.jsonb_build_array(digest), true);
  UPDATE shardpool.meta SET epoch = at_epoch WHERE epoch < at_epoch;
END
$body$;

-- Routers that have tables so are let in, and only they, or those that have them as before as well.
CREATE OR REPLACE FUNCTION shardpool.accept_tables(placements jsonb, only_these boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  UPDATE shardpool.meta SET tables = (
    SELECT coalesce(pg_catalog.jsonb_object_agg(name, accepted), '{}') FROM (
      SELECT given.key, pg_catalog.jsonb_agg(DISTINCT placement) FROM (
        SELECT key, value FROM pg_catalog.jsonb_each(placements)
        UNION ALL SELECT key, value FROM pg_catalog.jsonb_each(CASE WHEN NOT only_these THEN tables END)
      ) AS given, pg_catalog.jsonb_array_elements(given.value) AS placement GROUP BY given.key
    ) AS all_of_them (name, accepted));
END
$body$;

-- Before the owners, whose epoch it compares. Tables that only one side knows are no contradiction.
CREATE OR REPLACE FUNCTION shardpool.install_tables(at_epoch bigint, placements jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  here shardpool.meta;
  other record;
  known_epoch bigint;
BEGIN
  SELECT * INTO here FROM shardpool.meta FOR UPDATE;
  SELECT key, here.tables->key->>0 AS there, value->>0 AS given INTO other FROM pg_catalog.jsonb_each(placements)
    WHERE here.tables ? key AND NOT here.tables->key @> value LIMIT 1;
  IF NOT FOUND THEN
    PERFORM shardpool.accept_tables(placements, false);
    RETURN;
  END IF;
  known_epoch := greatest(here.epoch, (SELECT pg_catalog.max(epoch) FROM shardpool.owner));
  IF known_epoch >= at_epoch THEN
    RAISE EXCEPTION 'table "%" is placed otherwise on this shard than in the topology', other.key
      USING ERRCODE = 'object_not_in_prerequisite_state',
        DETAIL = pg_catalog.format('%s at epoch %s there, %s at epoch %s here.', other.there, known_epoch, other.given,
          at_epoch),
        HINT = 'Raise the epoch with every change of the topology.';
  END IF;
  PERFORM pg_catalog.set_config('shardpool.epoch_before', here.epoch::text, true);
  PERFORM shardpool.accept_tables(placements, true);
  UPDATE shardpool.meta SET epoch = at_epoch;
END
$body$;

-- The number of buckets, from 0, that hold the same keys as when the owners were written.
CREATE OR REPLACE FUNCTION shardpool.same_buckets(of_keyspace text) RETURNS integer
LANGUAGE sql STABLE
RETURN CASE WHEN nullif(pg_catalog.current_setting('shardpool.buckets', true), '')::jsonb->>of_keyspace = 'same'
  THEN 2147483647
  ELSE coalesce((SELECT (contract->>'buckets')::integer FROM shardpool.hash_contract WHERE keyspace = of_keyspace), 0)
END;

-- Called before and after a keyspace's bucket function is made: then this transaction knows whether that is the same.
CREATE OR REPLACE FUNCTION shardpool.watch_buckets(of_keyspace text, of_function text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  noted jsonb := coalesce(nullif(pg_catalog.current_setting('shardpool.buckets', true), ''), '{}')::jsonb;
  was text := noted->>of_keyspace;
  now text := coalesce(pg_catalog.md5(pg_catalog.pg_get_functiondef(pg_catalog.to_regproc(of_function))), 'missing');
BEGIN
  noted := noted || pg_catalog.jsonb_build_object(of_keyspace,
    CASE WHEN was IS NULL THEN now WHEN was = now THEN 'same' ELSE 'changed' END);
  PERFORM pg_catalog.set_config('shardpool.buckets', noted::text, true);
END
$body$;

-- The owners with the epochs of this shard's own where bucket and shard are unchanged, in the shortest ranges.
CREATE OR REPLACE FUNCTION shardpool.carry_epochs(of_keyspace text, owners jsonb, same_buckets integer) RETURNS jsonb
LANGUAGE sql STABLE
RETURN (
  WITH here AS (
    SELECT bucket, owner.shard, owner.epoch
    FROM shardpool.owner, pg_catalog.generate_series(first_bucket, last_bucket) AS bucket
    WHERE owner.keyspace = of_keyspace AND bucket < same_buckets
  ), given AS (
    SELECT bucket, entry.shard,
      CASE WHEN here.shard = entry.shard THEN here.epoch ELSE entry.epoch END AS epoch
    FROM pg_catalog.jsonb_to_recordset(owners)
        AS entry (first_bucket integer, last_bucket integer, shard text, epoch bigint)
      CROSS JOIN pg_catalog.generate_series(entry.first_bucket, entry.last_bucket) AS bucket
      LEFT JOIN here USING (bucket)
  ), numbered AS (
    SELECT *, bucket - pg_catalog.row_number() OVER (PARTITION BY shard, epoch ORDER BY bucket) AS run FROM given
  ), ranges AS (
    SELECT pg_catalog.min(bucket) AS first_bucket, pg_catalog.max(bucket) AS last_bucket, shard, epoch
    FROM numbered GROUP BY shard, epoch, run
  )
  SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('first_bucket', first_bucket, 'last_bucket', last_bucket,
    'shard', shard, 'epoch', epoch) ORDER BY first_bucket)
  FROM ranges
);

-- Bucket by bucket, because the same owners can be written in longer or shorter ranges.
CREATE OR REPLACE FUNCTION shardpool.check_same_owners(of_keyspace text, at_epoch bigint, owners jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  different integer;
BEGIN
  SELECT pg_catalog.count(*) INTO different
  FROM (
    SELECT bucket, owner.shard
    FROM shardpool.owner, pg_catalog.generate_series(first_bucket, last_bucket) AS bucket
    WHERE owner.keyspace = of_keyspace
  ) AS here
  FULL JOIN (
    SELECT bucket, entry.shard
    FROM pg_catalog.jsonb_to_recordset(owners) AS entry (first_bucket integer, last_bucket integer, shard text),
      pg_catalog.generate_series(first_bucket, last_bucket) AS bucket
  ) AS given USING (bucket)
  WHERE here.shard IS DISTINCT FROM given.shard;
  IF different > 0 THEN
    RAISE EXCEPTION '% buckets of keyspace "%" have other owners on this shard than in the topology, both of epoch %',
      different, of_keyspace, at_epoch
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Raise the epoch with every change of the topology.';
  END IF;
END
$body$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Edits of the topology. An edit is begun on every shard, then the file is replaced, then it is finished on every shard.

-- Compare-and-swap on the epoch: of two who edit the same topology, one is told.
CREATE OR REPLACE FUNCTION shardpool.begin_edit(
  from_epoch bigint, to_epoch bigint, of_digest text, of_change text, by_author text, of_plan jsonb,
  take_over boolean) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  here bigint;
  other record;
BEGIN
  SELECT epoch INTO here FROM shardpool.meta FOR UPDATE;
  here := greatest(here, (SELECT pg_catalog.max(owner.epoch) FROM shardpool.owner));
  SELECT * INTO other FROM shardpool.history WHERE epoch = to_epoch AND digest = of_digest AND outcome <> 'given up';
  IF FOUND THEN
    RETURN CASE other.outcome WHEN 'done' THEN 'done' ELSE 'resumed' END;
  END IF;
  IF here > from_epoch THEN
    SELECT * INTO other FROM shardpool.history WHERE outcome = 'done' ORDER BY epoch DESC LIMIT 1;
    RAISE EXCEPTION 'the fleet is at epoch %, and this edit starts from epoch %', here, from_epoch
      USING ERRCODE = 'RS002', DETAIL = coalesce(pg_catalog.format('Epoch %s, by %s at %s: %s',
          other.epoch, other.author, pg_catalog.date_trunc('second', other.begun_at), other.change), ''),
        HINT = 'Somebody else was first: bring the file up to that with shardpool topology pull, and make the edit again.';
  END IF;
  SELECT * INTO other FROM shardpool.history WHERE epoch > here AND outcome = 'begun' ORDER BY epoch DESC LIMIT 1;
  IF FOUND AND NOT (take_over AND to_epoch > other.epoch) THEN
    RAISE EXCEPTION 'another edit was begun and is not finished'
      USING ERRCODE = 'RS003', DETAIL = pg_catalog.format('Epoch %s, by %s at %s: %s',
          other.epoch, other.author, pg_catalog.date_trunc('second', other.begun_at), other.change),
        HINT = 'Run that command again where it was run: it goes on. If it never will be, add --take-over.';
  END IF;
  UPDATE shardpool.self SET also = NULL FROM shardpool.history AS lost
    WHERE lost.epoch > here AND lost.outcome = 'begun' AND lost.plan->'renames'->>shard = also;
  UPDATE shardpool.history SET outcome = 'given up', finished_at = pg_catalog.clock_timestamp()
    WHERE epoch > here AND outcome = 'begun';
  IF FOUND THEN
    DELETE FROM shardpool.topology WHERE epoch > here; -- routers that have it go on to the next
    UPDATE shardpool.meta SET published = here WHERE published > here;
  END IF;
  -- An editor of an older version tells of no maps: then owners are compared, until one does that tells. So of tables.
  UPDATE shardpool.hash_contract SET maps = NULL WHERE NOT of_plan ? 'maps' AND of_plan->'owners' ? keyspace;
  UPDATE shardpool.meta SET tables = NULL WHERE NOT of_plan ? 'tables';
  INSERT INTO shardpool.history (epoch, digest, change, author, plan)
    VALUES (to_epoch, of_digest, of_change, by_author, of_plan)
    ON CONFLICT (epoch) DO UPDATE SET digest = excluded.digest, change = excluded.change, author = excluded.author,
      plan = excluded.plan, login = excluded.login, begun_at = excluded.begun_at, finished_at = NULL, outcome = 'begun';
  RETURN 'begun';
END
$body$;

CREATE OR REPLACE FUNCTION shardpool.end_edit(of_epoch bigint, of_digest text, is_done boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  edit record;
BEGIN
  PERFORM FROM shardpool.meta FOR UPDATE;
  SELECT * INTO edit FROM shardpool.history WHERE epoch = of_epoch AND digest = of_digest AND outcome = 'begun';
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF is_done THEN
    PERFORM shardpool.install_owners(changed.key, of_epoch, changed.value)
      FROM pg_catalog.jsonb_each(edit.plan->'owners') AS changed;
    UPDATE shardpool.self SET shard = edit.plan->'renames'->>shard, also = shard WHERE edit.plan->'renames' ? shard;
    UPDATE shardpool.meta SET epoch = of_epoch WHERE epoch < of_epoch;
  ELSE
    UPDATE shardpool.self SET also = NULL WHERE edit.plan->'renames' ? shard;
  END IF;
  UPDATE shardpool.history
    SET outcome = CASE WHEN is_done THEN 'done' ELSE 'given up' END, finished_at = pg_catalog.clock_timestamp(),
      plan = plan - 'document'
    WHERE epoch = of_epoch;
END
$body$;

-- The fence of a shard that has given buckets away: a writer who does not know yet is refused rather than lost.
CREATE OR REPLACE FUNCTION shardpool.refuse_row() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  IF TG_NARGS > 1 THEN
    RAISE EXCEPTION 'a row of % belongs to another shard', TG_TABLE_NAME
      USING ERRCODE = 'RS001', DETAIL = pg_catalog.format('By epoch %s of the topology.', TG_ARGV[0]),
        HINT = 'If the topology of the writer is older: reload it, and route the key again. Else the key that is stored '
          'is not the one by which the row was routed.';
  END IF;
  RAISE EXCEPTION 'this shard has given away the bucket of a row of %', TG_TABLE_NAME
    USING ERRCODE = 'RS001', DETAIL = pg_catalog.format('Since epoch %s of the topology.', TG_ARGV[0]),
      HINT = 'Reload the topology, and route the key again.';
END
$body$;

REVOKE EXECUTE ON FUNCTION shardpool.install_self(text, text), shardpool.install_contract(text, jsonb),
  shardpool.install_owners(text, bigint, jsonb), shardpool.check_same_owners(text, bigint, jsonb),
  shardpool.carry_epochs(text, jsonb, integer), shardpool.same_buckets(text),
  shardpool.watch_buckets(text, text), shardpool.maps_in_force(text),
  shardpool.accept_maps(text, jsonb, boolean), shardpool.install_map(text, bigint, text),
  shardpool.accept_tables(jsonb, boolean), shardpool.install_tables(bigint, jsonb),
  shardpool.begin_edit(bigint, bigint, text, text, text, jsonb, boolean),
  shardpool.end_edit(bigint, text, boolean) FROM PUBLIC;
GRANT USAGE ON SCHEMA shardpool TO PUBLIC;
GRANT SELECT ON shardpool.meta, shardpool.self, shardpool.hash_contract, shardpool.owner, shardpool.history TO PUBLIC;
