-- The topology as it travels through the shards: routers with an older file take it over from here.

ALTER TABLE shardpool.meta ADD COLUMN IF NOT EXISTS published bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN shardpool.meta.published IS 'the epoch of the last topology that was published here';

CREATE TABLE IF NOT EXISTS shardpool.topology (
  epoch bigint PRIMARY KEY,
  digest text NOT NULL,
  document text NOT NULL,
  since jsonb NOT NULL,
  published_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE shardpool.topology IS 'the last topologies, without passwords: what routers go by whose file is older';
COMMENT ON COLUMN shardpool.topology.since IS 'by shard the epoch since which it is where the document says; 0: not known';

CREATE OR REPLACE FUNCTION shardpool.publish_topology(of_document text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  given jsonb := of_document;
  of_epoch bigint := given->>'epoch';
  of_digest text := encode(sha256(convert_to(of_document, 'UTF8')), 'hex');
  last shardpool.topology;
BEGIN
  PERFORM FROM shardpool.meta FOR UPDATE;
  IF EXISTS (SELECT FROM shardpool.topology WHERE epoch > of_epoch OR (epoch, digest) = (of_epoch, of_digest)) THEN
    RETURN;
  END IF;
  SELECT * INTO last FROM shardpool.topology WHERE epoch < of_epoch ORDER BY epoch DESC LIMIT 1;
  INSERT INTO shardpool.topology (epoch, digest, document, since)
    SELECT of_epoch, of_digest, of_document, jsonb_object_agg(shard.key, CASE WHEN last.document IS NULL THEN 0
      WHEN last.document::jsonb->'shards'->shard.key = shard.value THEN (last.since->>shard.key)::bigint ELSE of_epoch END)
    FROM jsonb_each(given->'shards') AS shard
    ON CONFLICT (epoch) DO UPDATE SET digest = excluded.digest, document = excluded.document, since = excluded.since,
      published_at = clock_timestamp();
  DELETE FROM shardpool.topology WHERE epoch <= (SELECT epoch FROM shardpool.topology ORDER BY epoch DESC OFFSET 8 LIMIT 1);
  UPDATE shardpool.meta SET published = of_epoch WHERE published < of_epoch;
END
$body$;

-- That of an edit which is begun; nothing where its editor is of a version that does not publish.
CREATE OR REPLACE FUNCTION shardpool.publish_edit(of_epoch bigint, of_digest text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
  SELECT shardpool.publish_topology(plan->>'document') FROM shardpool.history
    WHERE epoch = of_epoch AND digest = of_digest AND outcome = 'begun' AND plan ? 'document'
$body$;

REVOKE EXECUTE ON FUNCTION shardpool.publish_topology(text), shardpool.publish_edit(bigint, text) FROM PUBLIC;
GRANT SELECT ON shardpool.topology TO PUBLIC;
