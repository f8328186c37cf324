"""What the shards tell of their tables, and the plans that are made of it."""
