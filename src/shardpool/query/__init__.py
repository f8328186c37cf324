"""Pure: SQL text and topology in, the shards that must be asked out. No I/O."""
