"""Where a statement goes, and what is done with the answers."""
