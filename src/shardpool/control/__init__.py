"""The SQL that the shards carry, and what shardpool asks of them for itself. Pure: SQL text out, rows in."""
