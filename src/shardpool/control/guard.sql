-- What lets buckets move while they are used: which epoch each session works by, and who owns what moves.

ALTER TABLE shardpool.meta ADD COLUMN IF NOT EXISTS min_epoch bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN shardpool.meta.min_epoch IS 'sessions that work by an older epoch are turned away when they begin';

CREATE TABLE IF NOT EXISTS shardpool.moves (
  move integer PRIMARY KEY CHECK (move > 0),
  keyspace text,
  what jsonb NOT NULL,
  source text NOT NULL,
  target text NOT NULL,
  step text NOT NULL,
  begun_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  finished_at timestamptz,
  copied bigint NOT NULL DEFAULT 0,
  total bigint NOT NULL DEFAULT 0,
  note text,
  wanted text,
  told jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE shardpool.moves IS 'moves of rows from or to this shard: how far each is, for who takes it up again';
COMMENT ON COLUMN shardpool.moves.copied IS 'rows that are copied, of about as many as total';
COMMENT ON COLUMN shardpool.moves.wanted IS 'what somebody else asks of the process that makes the move';

CREATE TABLE IF NOT EXISTS shardpool.token (
  move integer PRIMARY KEY,
  owner text NOT NULL,
  epoch bigint NOT NULL
);
COMMENT ON TABLE shardpool.token IS 'who owns what a move moves, while it is handed over; comes with the rows themselves';

CREATE TABLE IF NOT EXISTS shardpool.marker (
  move integer PRIMARY KEY,
  n bigint NOT NULL
);
COMMENT ON TABLE shardpool.marker IS 'a number that is sent after the rows of a move, to see when they have arrived';

-- ---------------------------------------------------------------------------------------------------------------------
-- The epoch that a session works by: a lock, which others see, and a setting, which triggers see. Whoever declares reads
-- meta.min_epoch in a later statement: were it the same, its snapshot could be from before it had the lock.

CREATE OR REPLACE FUNCTION shardpool.declare(e bigint) RETURNS void
LANGUAGE sql AS $body$
  SELECT pg_catalog.pg_advisory_lock_shared(1936747624, e::integer),
    pg_catalog.set_config('shardpool.epoch', e::text, false)
$body$;

-- Outside of a transaction: what is rolled back gives the setting back, and not the lock.
CREATE OR REPLACE FUNCTION shardpool.redeclare(e bigint, old bigint) RETURNS void
LANGUAGE sql AS $body$
  SELECT pg_catalog.pg_advisory_lock_shared(1936747624, e::integer),
    pg_catalog.set_config('shardpool.epoch', e::text, false),
    pg_catalog.pg_advisory_unlock_shared(1936747624, old::integer)
$body$;

-- ---------------------------------------------------------------------------------------------------------------------
-- The guard of a move: first in each unit of work on what it moves. A writer holds its lock, shared, until its commit is
-- in the log, and the hand-over holds it exclusive while it gives the token away.

-- Raises unless this shard has the token. FOR SHARE: where the snapshot is older than the lock, the row is another by
-- now, and PostgreSQL says so (40001). What only reads may read as of its snapshot.
CREATE OR REPLACE FUNCTION shardpool.check_token(m integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  t shardpool.token;
BEGIN
  IF current_setting('transaction_isolation') = 'read committed' OR current_setting('transaction_read_only')::boolean THEN
    SELECT * INTO t FROM shardpool.token WHERE move = m;
  ELSE
    SELECT * INTO t FROM shardpool.token WHERE move = m FOR SHARE;
  END IF;
  IF t.owner IS DISTINCT FROM (SELECT shard FROM shardpool.self) THEN
    RAISE EXCEPTION 'what move % moves is not on this shard', m
      USING ERRCODE = 'RS001', DETAIL = format('%s %s', t.owner, t.epoch),
        HINT = 'The detail says which shard has it, since which epoch of its token: go there.';
  END IF;
END
$body$;

CREATE OR REPLACE FUNCTION shardpool.guard(m integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1936747623, m); -- first the lock, then the look
  PERFORM shardpool.check_token(m);
END
$body$;

-- For a single SELECT in autocommit: whatever is written on the other shard after this look is written beside it.
CREATE OR REPLACE FUNCTION shardpool.guard_read(m integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  PERFORM shardpool.check_token(m);
END
$body$;

-- For a session that is lent to a caller, who may commit many times: until release_guard, or its end.
CREATE OR REPLACE FUNCTION shardpool.guard_session(m integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  PERFORM pg_advisory_lock_shared(1936747623, m);
  PERFORM shardpool.check_token(m);
EXCEPTION WHEN OTHERS THEN
  -- A lock of a session outlives the error.
  PERFORM pg_advisory_unlock_shared(1936747623, m);
  RAISE;
END
$body$;

CREATE OR REPLACE FUNCTION shardpool.release_guard(m integer) RETURNS void
LANGUAGE sql AS $body$
  SELECT pg_catalog.pg_advisory_unlock_shared(1936747623, m)
$body$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Fences while rows move. The condition of each trigger holds its epoch, or its buckets, as a constant: it comes with the
-- catalog, so that it is seen by a session whose snapshot is older.

CREATE OR REPLACE FUNCTION shardpool.refuse_stale() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  RAISE EXCEPTION 'rows of % are on their way to another shard', TG_TABLE_NAME
    USING ERRCODE = 'RS001', DETAIL = format('Writers work by epoch %s of the topology or a later one.', TG_ARGV[0]),
      HINT = 'Reload the topology, and route the key again. Whoever writes without shardpool waits until the move is '
        'made: shardpool move status';
END
$body$;

CREATE OR REPLACE FUNCTION shardpool.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  RAISE EXCEPTION '% of % cannot be done while rows of it are on their way to another shard',
    CASE TG_OP WHEN 'UPDATE' THEN 'a change of the partition key' ELSE TG_OP END, TG_TABLE_NAME
    USING ERRCODE = 'RS001', DETAIL = format('Move %s.', TG_ARGV[0]),
      HINT = 'Wait until the move is finished, or end it: shardpool move status';
END
$body$;

-- On both shards while rows are handed over, for each row of a move that is written, whoever writes it: a lock until the
-- transaction is decided, prepared ones too, and a look at who has the token. The lock is another than the guard's: a
-- session that holds one lock for itself and for its transaction cannot prepare that.
CREATE OR REPLACE FUNCTION shardpool.guard_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1936747625, TG_ARGV[0]::integer);
  PERFORM shardpool.check_token(TG_ARGV[0]::integer);
  IF TG_OP = 'DELETE' THEN
    RETURN OLD;
  END IF;
  RETURN NEW;
END
$body$;

-- On a shard that gets rows: of all that is sent of a table, those of other buckets are left out.
CREATE OR REPLACE FUNCTION shardpool.leave_out() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  RETURN NULL;
END
$body$;

DROP FUNCTION IF EXISTS shardpool.lock_group(integer);

REVOKE EXECUTE ON FUNCTION shardpool.check_token(integer) FROM PUBLIC;
GRANT SELECT ON shardpool.moves, shardpool.token, shardpool.marker TO PUBLIC;
