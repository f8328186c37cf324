-- Transactions over several shards. The record of one is written in its transaction on one shard, its home, before any
-- other shard prepares its part; so it is there when the home has committed, and that is the decision. Whoever finds a
-- prepared part asks the home by inserting the same id: it waits while the transaction goes on, fails when it has
-- committed, and goes through when it never will.

CREATE TABLE IF NOT EXISTS shardpool.tx (
  id text PRIMARY KEY,
  others text[] NOT NULL,
  begun_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE shardpool.tx IS 'transactions over several shards that were committed, this shard being their home';
COMMENT ON COLUMN shardpool.tx.others IS 'the shards that had prepared their part';

-- What has become of a transaction of which this shard is the home: committed, aborted, or running. A record that was
-- dropped for its age is not there any more either: whoever asks has to know how old the id is.
CREATE OR REPLACE FUNCTION shardpool.transaction_state(of_id text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '300ms' AS $body$
BEGIN
  INSERT INTO shardpool.tx (id, others) VALUES (of_id, '{}');
  -- Undoes the INSERT.
  RAISE EXCEPTION USING ERRCODE = 'RS004';
EXCEPTION
  WHEN unique_violation THEN RETURN 'committed';
  WHEN lock_not_available THEN RETURN 'running';
  WHEN SQLSTATE 'RS004' THEN RETURN 'aborted';
END
$body$;

GRANT SELECT ON shardpool.tx TO PUBLIC;
