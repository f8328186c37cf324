"""Many rows or many items at once."""
